"""Commands that talk to a running service, through `service_client`: what is shown, loaded and said there.

What they print is made in `app/terminal`.
"""
