"""The names of gunicorn that we rely on; test_compatibility.py checks them against our source and gunicorn's.

`make test-gunicorn-minor` runs the worker's tests with the tested minor release that is not pinned.
"""

from __future__ import annotations

import logging

import gunicorn

log = logging.getLogger(__name__)

TESTED = ((26, 2), (27, 0))  # minor releases; with others, answers use gunicorn's own framing

# By module. `workers/serve.py` imports the application's base class.
IMPORTED = {
    "gunicorn": {"version_info"},
    "gunicorn.app.base": {"BaseApplication"},
    "gunicorn.config": {"Config"},
    "gunicorn.errors": {"AppImportError"},
    "gunicorn.glogging": {"Logger"},
    "gunicorn.http": {"Request"},
    "gunicorn.http.errors": {
        "ExpectationFailed",
        "LimitRequestHeaders",
        "LimitRequestLine",
        "NoMoreData",
        "ParseException",
        "UnsupportedTransferCoding",
    },
    "gunicorn.http.unreader": {"Unreader"},
    "gunicorn.http.wsgi": {"Response"},
    "gunicorn.workers.base": {"Worker"},
}
# By class: members that we override.
OVERRIDDEN = {
    "Worker": {"init_process", "init_signals", "load_wsgi", "run"},
    "Unreader": {"chunk", "read"},
    "Logger": {"error_fmt", "datefmt"},
    "BaseApplication": {"load_config"},
    "Arbiter": {"handle_hup", "handle_int", "handle_quit", "handle_ttin", "handle_ttou", "handle_usr2"},
}
# By class: members that we read, call or set. The settings of Config are documented individually.
USED = {
    "Arbiter": {"WORKERS", "handle_term", "kill_workers", "log", "pid", "signal"},
    "Worker": {"app", "booted", "cfg", "log", "notify", "pid", "ppid", "sockets"},
    "Unreader": {"buf", "unread"},
    "Request": {"body", "force_close", "headers", "method", "path", "query", "uri", "version"},
    "Body": {"reader"},
    "Response": {
        "chunked",
        "close",
        "default_headers",
        "force_close",
        "headers",
        "headers_sent",
        "req",
        "response_length",
        "sent",
        "should_close",
        "start_response",
        "status",
        "status_code",
        "write",
    },
    "BaseApplication": {"cfg", "run"},
}


def warn_if_untested() -> None:
    """Log a warning about the cost of an untested release."""
    if gunicorn.version_info[:2] not in TESTED:
        found = ".".join(map(str, gunicorn.version_info))
        tested = " and ".join(f"{major}.{minor}" for major, minor in TESTED)
        log.warning(
            "gunicorn %s found, tested with %s: answers take the slower WSGI path, which costs about twice the CPU "
            "time per streamed token and delays first tokens among hundreds of streams; install a tested release",
            *(found, tested),
        )
