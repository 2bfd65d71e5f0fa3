"""When the APScheduler job that requests readings runs next. Imported only where there is a GPU, like APScheduler."""

from __future__ import annotations

import datetime

from apscheduler.triggers.base import BaseTrigger


class PollTrigger(BaseTrigger):  # type: ignore[misc]
    """Every `seconds`, counted from the present.

    After a suspend, or when the clock was set forward, IntervalTrigger lists every time that was missed: 400 days of
    polls kept a core busy for minutes and took gigabytes (APScheduler 3.11).
    """

    def __init__(self, seconds: float) -> None:
        self._period = datetime.timedelta(seconds=seconds)

    def get_next_fire_time(self, _: datetime.datetime | None, now: datetime.datetime) -> datetime.datetime:
        return now + self._period
