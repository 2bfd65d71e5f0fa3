"""The status page in a browser, against the real service: `make test-page`, which makes an environment for Playwright."""
