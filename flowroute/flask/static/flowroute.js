/*
 * Keeps the page of a waiting run up to date, and leaves it once the run is at rest.
 *
 * Reads the data-* of #flowroute (see script.html) and writes to what the page's author put in:
 *   data-flowroute="message", "percent", "elapsed", "title"   their text; a message falls back on
 *                                 the title of the step, then on data-otherwise
 *   data-flowroute="bar"          a <progress>; or any element, then its width
 *   data-flowroute="steps"        descendants with data-step="<name>" get data-state
 *   data-flowroute="continue"     a link to where the page is about to go
 *   data-flowroute-when="live …"  shown while connecting, live, polling, trouble, gone, leaving,
 *                                 leaving-slowly; -after="60": once the run is 60 seconds old
 * The page's own scripts are told by "flowroute:moved", dispatched on #flowroute with the state.
 *
 * Socket events are hints: late, doubled or lost. Hence the sequence numbers, and hence the page
 * asks over HTTP as well, only less often while a socket is connected.
 */
(() => {
  "use strict";

  const root = document.getElementById("flowroute");
  if (!root) return;

  const numberOr = (text, otherwise) => (Number(text) > 0 ? Number(text) : otherwise);
  const POLL_MS = numberOr(root.dataset.pollSeconds, 2) * 1000;
  const SLOWEST_POLL_MS = 5 * POLL_MS;
  const loadedAt = Date.now();
  const ageWhenLoadedMs = numberOr(root.dataset.ageSeconds, 0) * 1000;
  const stateUrl = ownAddress(root.dataset.stateUrl || "");
  const shown = {
    seq: Number(root.dataset.seq || -1),
    done: numberOr(root.dataset.progressDone, -Infinity),
    pushes: 0, // socket events shown so far: tells whether one overtook an answer
  };
  let live = false; // the socket is connected and has answered our subscription
  let over = false; // we are leaving or have given up: no timer and no event may do more
  let [delay, timer, failures, tickedAt] = [POLL_MS, 0, 0, loadedAt];
  let request = null; // the poll that is under way

  const parts = (name) => document.querySelectorAll(`[data-flowroute~="${name}"]`);
  const authored = Array.from(parts("message"), (part) => [part, part.dataset.otherwise ?? part.textContent]);
  // The same text again would be read aloud again.
  const write = (part, text) => part.textContent === text || (part.textContent = text);

  function showConnection(ending) {
    if (over && !ending) return;
    const otherwise = Date.now() - loadedAt < POLL_MS ? "connecting" : "polling";
    const now = ending || (live ? "live" : failures > 1 ? "trouble" : otherwise);
    for (const part of document.querySelectorAll("[data-flowroute-when]")) {
      part.hidden = !part.dataset.flowrouteWhen.split(/\s+/).includes(now);
    }
  }

  function showElapsed() {
    // The server says how old the run was; only what passed since is read off the visitor's clock.
    const age = Math.floor((ageWhenLoadedMs + Math.max(0, Date.now() - loadedAt)) / 1000);
    const clock = new Date(age * 1000).toISOString().slice(14, 19); // minutes and seconds
    const text = age < 3600 ? clock.replace(/^0/, "") : `${Math.floor(age / 3600)}:${clock}`;
    for (const part of parts("elapsed")) write(part, text);
    for (const part of document.querySelectorAll("[data-flowroute-after]")) {
      part.hidden = age < Number(part.dataset.flowrouteAfter);
    }
  }

  function showProgress(progress) {
    const share = progress ? (100 * Number(progress.done)) / Number(progress.total) : NaN;
    const percent = Number.isFinite(share) ? Math.floor(Math.min(100, Math.max(0, share))) : null;
    for (const part of parts("percent")) write(part, percent === null ? "" : `${percent}%`);
    for (const part of parts("title")) {
      write(part, (percent === null ? "" : `${percent}% · `) + (part.dataset.title || ""));
    }
    for (const bar of parts("bar")) {
      const name = bar.tagName === "PROGRESS" ? "value" : "aria-valuenow";
      if (percent === null) bar.removeAttribute(name);
      else bar.setAttribute(name, percent);
      // Through the CSSOM: a style attribute would need 'unsafe-inline'.
      if (name !== "value") bar.style.width = percent === null ? "" : `${percent}%`;
    }
  }

  /** Marks the step that the run is at, some moves later; returns its title where it is listed. */
  function showStep(name, moves) {
    let title = "";
    for (const list of parts("steps")) {
      const steps = Array.from(list.querySelectorAll("[data-step]"));
      const from = steps.findIndex((step) => step.dataset.state === "current");
      const at = steps.findIndex((step) => step.dataset.step === name);
      if (at < 0 && moves === 0) continue;
      title = steps[at]?.dataset.title || title;
      // Steps in between are done if there were moves enough for all; else they may be a branch not taken.
      const passed = at - from <= moves;
      steps.forEach((step, index) => {
        if (index === at) step.dataset.state = "current";
        else if (index === from || (passed && from < index && index < at)) step.dataset.state = "done";
        step.setAttribute("aria-current", index === at ? "step" : "false");
        const word = step.querySelector("[data-step-state]");
        if (word) write(word, list.dataset[step.dataset.state] || "");
      });
    }
    return title;
  }

  /** Shows a state unless it is old news. `fresh`: it was read just now, it is no late hint. */
  function take(state, fresh) {
    if (over || !(state.seq >= shown.seq)) return false;
    const done = state.progress ? Number(state.progress.done) : -Infinity;
    // A step that waits for its next attempt counts from the beginning again.
    const again = state.state === "waiting" && state.waiting_for === "timer";
    const known = state.seq === shown.seq && !state.at_rest;
    if (known && !fresh && !again && done < shown.done) return false;
    const changed = !known || done !== shown.done;
    const moves = state.seq - shown.seq;
    Object.assign(shown, { seq: state.seq, done });
    root.dispatchEvent(new CustomEvent("flowroute:moved", { bubbles: true, detail: state }));
    if (state.at_rest) return leave(state);
    const message = showStep(state.step, moves);
    showProgress(state.progress);
    for (const [part, text] of authored) write(part, state.progress?.message || message || text);
    return changed;
  }

  /** The text as an address of this site, or null: nothing else is ever requested or gone to. */
  function ownAddress(text) {
    try {
      const url = new URL(text, location.href);
      return /^https?:$/.test(url.protocol) && url.origin === location.origin ? url : null;
    } catch {
      return null; // not an address at all
    }
  }

  function leave(state) {
    const [here, well] = [new URL(location.href), /done|waiting/.test(state.state)];
    const target = ownAddress((well && root.dataset.next) || here.href) || here; // failures stay
    // To go to a #fragment of the open page would only scroll.
    if (target.pathname === here.pathname && target.search === here.search) target.hash = "";
    if (cameRightBack(`${root.dataset.token} ${target} ${state.seq} ${state.state}`)) {
      setTimeout(() => over || leave(state), 1500);
      return true;
    }
    stop("leaving");
    for (const link of parts("continue")) link.href = target.href;
    // A slow page takes its time, a download leaves this one standing: offer a link, touch nothing.
    setTimeout(() => over && showConnection("leaving-slowly"), 8000);
    location.replace(target.href);
    return true;
  }

  /** True if we left for the same reason a moment ago: a page that leads back here must not spin. */
  function cameRightBack(reason) {
    try {
      const [last, at] = JSON.parse(sessionStorage.getItem("flowroute") || "[]");
      if (last === reason && Math.abs(Date.now() - at) < 1500) return true;
      sessionStorage.setItem("flowroute", JSON.stringify([reason, Date.now()]));
    } catch {
      // The browser forbids storage: then there is no memory, and leaving matters more.
    }
    return false;
  }

  function stop(ending) {
    over = true;
    clearTimeout(timer);
    request?.abort();
    socket?.disconnect();
    showConnection(ending);
  }

  function pollLater() {
    clearTimeout(timer);
    // Spread out: after a restart of the server all pages start counting together.
    timer = setTimeout(poll, (live ? SLOWEST_POLL_MS : delay) * (0.9 + 0.2 * Math.random()));
  }

  async function poll() {
    clearTimeout(timer);
    if (over || !stateUrl) return;
    request?.abort();
    const mine = (request = new AbortController());
    const tooLate = setTimeout(() => mine.abort(), 15000);
    const before = shown.pushes;
    delay = Math.min(delay * 1.5, SLOWEST_POLL_MS);
    const settings = { headers: { Accept: "application/json" }, cache: "no-store", signal: mine.signal };
    // A failed request is shown to the visitor and made again; there is nobody else to tell.
    const answer = await fetch(stateUrl, settings).catch(() => null);
    const state = answer?.ok ? await answer.json().catch(() => null) : null;
    clearTimeout(tooLate);
    if (over || mine !== request) return; // a later request has taken over
    if (answer?.status === 404 || answer?.status === 410) return stop("gone");
    failures = state ? 0 : failures + 1;
    if (state && take(state, shown.pushes === before)) delay = POLL_MS;
    showConnection();
    pollLater();
  }

  function connect() {
    if (typeof window.io !== "function" || !root.dataset.socketPath) return null;
    // No long polling, it needs sticky sessions; forceNew, the page may have other sockets.
    const settings = { transports: ["websocket"], forceNew: true, reconnectionDelayMax: 20000 };
    const opened = window.io("/flowroute", { ...settings, path: root.dataset.socketPath });
    const follow = (isLive) => {
      if (live && !isLive) delay = POLL_MS;
      live = isLive;
      showConnection();
      pollLater();
    };
    opened.on("connect", () => {
      const before = shown.pushes;
      // On every connect: the server forgets its rooms when a connection ends.
      opened.timeout(5000).emit("subscribe", { token: root.dataset.token }, (late, state) => {
        const answered = !late && Boolean(state) && !state.error;
        if (answered) take(state, shown.pushes === before);
        follow(answered);
        if (!answered) poll();
      });
    });
    opened.on("moved", (state) => take(state, false) && (shown.pushes += 1));
    opened.on("disconnect", () => follow(false));
    return opened;
  }

  /** The visitor is back: from sleep, from another tab, from no network, with the back button. */
  function wake(slept) {
    if (over) return;
    // After a sleep a socket may look connected although the other end is long gone.
    if (socket && (slept || !socket.connected)) socket.disconnect().connect();
    delay = POLL_MS;
    poll();
  }

  const socket = connect();
  showConnection();
  showElapsed();
  pollLater();
  setInterval(() => {
    const gap = Date.now() - tickedAt;
    tickedAt = Date.now();
    showElapsed();
    if (gap > 5000 && !document.hidden) wake(gap > 90000); // timers stood still: the machine slept
  }, 1000);
  document.addEventListener("visibilitychange", () => document.hidden || wake(false));
  document.addEventListener("resume", () => wake(true));
  window.addEventListener("online", () => wake(true));
  window.addEventListener("pagehide", () => socket?.disconnect());
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    over = false; // the visitor came back to a page that had been left
    wake(true);
  });
})();
