"""How the data path of the whole service does against its peers; `python -m bench.relay --help` says more."""
