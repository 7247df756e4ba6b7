"""Creates many locks on a voucher in bulk: a script that calls the library's validate script in a loop."""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import AMOUNT
from benchmarks.contenders.this_library import sent_command
from benchmarks.measure import progress
from voucher_sessions._core import scripts

_KEY, _TTL_MS = "@", 987_654_321  # placeholders in the template call
_AT_ONCE = 1_000  # locks per script call, so that the server can answer other clients in between
_NUMBERED = "old_%032d"

# validate.lua as a function, called once per lock with the keys and arguments of the template call, in which the
# placeholders are replaced by the session key and the TTL of the lock. After the arguments of the template follow the
# first and the last number of the locks, and the time at which they expire.
_MANY = f"""
local function validate(KEYS, ARGV)
{scripts.VALIDATE.text}
end
local of_template = #ARGV - 3
local time = redis.call('TIME')
local ttl_ms = ARGV[of_template + 3] - time[1] * 1000 - math.floor(time[2] / 1000)
for number = tonumber(ARGV[of_template + 1]), tonumber(ARGV[of_template + 2]) do
  local keys, args = {{}}, {{}}
  for i, key in ipairs(KEYS) do
    keys[i] = string.gsub(key, '{_KEY}', string.format('{_NUMBERED}', number))
  end
  for i = 1, of_template do
    args[i] = ARGV[i] == '{_KEY}' and string.format('{_NUMBERED}', number)
      or ARGV[i] == '{_TTL_MS}' and string.format('%.0f', ttl_ms + number % 1000)
      or ARGV[i]
  end
  validate(keys, args)
end
"""


def now_ms(admin: Any) -> int:
    """The server's time, in ms."""
    seconds, micros = admin.time()
    return int(seconds) * 1000 + int(micros) // 1000


def create_locks(admin: Any, code: str, locks: int, expires_at_ms: int) -> None:
    """Create ``locks`` locks that expire at ``expires_at_ms`` or up to a second later."""
    session = {"type": "LOCK", "key": _KEY, "ttl": _TTL_MS, "ttl_unit": "MILLISECONDS"}
    _, *template = sent_command(lambda engine: engine.validate(code, credits=AMOUNT, session=session))
    script = admin.script_load(_MANY)
    batches = range(0, locks, _AT_ONCE)
    for first in progress(f"{locks:,} locks in thousands", batches) if len(batches) > 100 else batches:
        last = min(locks, first + _AT_ONCE) - 1
        admin.evalsha(script, *template, first, last, expires_at_ms)
