"""The limit on open files: raised for the service, and handed back to its children.

Two descriptors go with each request, and a soft limit of 1024 is the usual default: it is meant for programs that use
select(), which breaks with descriptors above it. Engines may be such programs.
"""

from __future__ import annotations

import functools
import logging
import resource

log = logging.getLogger(__name__)


@functools.cache
def inherited_soft_limit() -> int:
    """The soft limit that the service was started with, if this is first called before `raise_soft_limit`."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_soft_limit() -> None:
    """Raise the soft limit of this process to its hard one."""
    soft, (_, hard) = inherited_soft_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit on open files stays %d: %s", soft, error)
    else:
        log.info("limit on open files raised from %d to %d", soft, hard)
