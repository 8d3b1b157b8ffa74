"""The variables that tell a contestant's process where to look."""

#: The URL of Redis, for Celery, whose application is made when its module is loaded.
REDIS = "BENCH_REDIS"
