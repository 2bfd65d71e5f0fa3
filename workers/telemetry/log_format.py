"""The format of every log line, including gunicorn's: time, level, thread (the actor's name), logger, message."""

LOG_FORMAT = "%(asctime)s %(levelname)s [%(threadName)s] %(name)s: %(message)s"
