"""What is measured: flowroute, the limits and the peers, each in a process of its own."""
