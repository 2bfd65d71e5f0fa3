"""The configuration of nginx as a peer: one worker, no buffering, upstream keep-alive, no access log."""

from __future__ import annotations

import os
from pathlib import Path

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def configuration(folder: Path, port: int, upstream_port: int) -> str:
    user = "user root;" if os.getuid() == 0 else ""  # its worker needs access to the folder
    paths = "\n    ".join(f"{kind}_temp_path {folder}/{kind};" for kind in TEMPORARY)
    return f"""\
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    {paths}
    keepalive_requests 100000000;
    upstream engine {{
        server 127.0.0.1:{upstream_port};
        keepalive 1024;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""
