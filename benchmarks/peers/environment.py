"""The variables that tell a contestant's process where to look."""

#: The URL of Redis, for Celery, whose application is made when its module is loaded.
REDIS = "BENCH_REDIS"

#: The URL of the database, for an application that a server loads.
DATABASE = "BENCH_DATABASE"

#: Set in a worker's process.
IS_WORKER = "BENCH_IS_WORKER"
