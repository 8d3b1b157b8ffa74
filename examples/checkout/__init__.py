"""A small shop whose checkout is a flow: reserve, pay on a worker, receipt."""
