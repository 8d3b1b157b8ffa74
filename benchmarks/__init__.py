"""How fast flowroute is: ratios, each taken side by side in one run. `make bench` measures them.

A figure is a module that says what is measured and which bar it must reach (`registry`). What takes
part in it is a contestant: an object in a process of its own, asked in turn over a pipe, so that
flowroute, the limit and the peers meet the same machine at the same time.
"""
