"""llama.cpp's own tests of its server, asked of llama-server and then of the proxy; `--help` says more."""
