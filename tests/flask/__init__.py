"""The tests of the Flask leaf: real applications on real databases."""
