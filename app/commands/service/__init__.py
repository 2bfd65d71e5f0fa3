"""Commands that ask a running service, through `service_client`."""
