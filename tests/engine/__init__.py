"""The engine: its flows, its protocol and its bytes."""
