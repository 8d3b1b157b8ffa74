"""Worker steps on RQ, with a real Redis and real workers."""
