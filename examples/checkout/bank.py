"""A pretend bank with a ledger of its own, which no transaction of the shop reaches.

Like a real one it takes an idempotency key: asked twice with the same key, it charges once.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

CARDS = {
    "tok_visa": "Visa ending 4242",
    "tok_declined": "Visa ending 0002, always declined",
    "tok_outage": "Visa ending 0119, the bank is down the first time",
}


class CardDeclined(Exception):
    """The bank said no, and why."""


class BankDown(Exception):
    """The bank did not answer."""


class Bank:
    """The bank.

    Parameters:
        ledger: The file it keeps its ledger in.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        with closing(sqlite3.connect(ledger)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS charge (key TEXT PRIMARY KEY, cents INTEGER NOT NULL)"
            )
            connection.execute("CREATE TABLE IF NOT EXISTS call (key TEXT NOT NULL)")

    def charge(self, cents: int, card_token: str, *, key: str) -> str:
        """Charge a card once, however often it is asked with this key.

        Returns:
            The id of the charge.

        Raises:
            CardDeclined: The card is not good for it.
            BankDown: The bank did not answer; ask again with the same key.
        """
        with closing(sqlite3.connect(self._ledger)) as connection, connection:
            calls = connection.execute(
                "SELECT count(*) FROM call WHERE key = ?", (key,)
            ).fetchone()[0]
            connection.execute("INSERT INTO call VALUES (?)", (key,))
            if card_token == "tok_declined":
                raise CardDeclined("insufficient funds")
            if card_token == "tok_outage" and calls == 0:
                connection.commit()  # the bank remembers the call, though nobody hears of it
                raise BankDown("the bank did not answer within 10 seconds")
            connection.execute("INSERT OR IGNORE INTO charge VALUES (?, ?)", (key, cents))
            number = connection.execute(
                "SELECT rowid FROM charge WHERE key = ?", (key,)
            ).fetchone()[0]
        return f"ch_{number:06d}"
