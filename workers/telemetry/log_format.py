"""The form of every log line, gunicorn's included: time, level, thread (the actor's name), logger, message."""

LOG_FORMAT = "%(asctime)s %(levelname)s [%(threadName)s] %(name)s: %(message)s"
