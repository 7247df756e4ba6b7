"""Vouchers with many locks, made by the engine's own script: in bulk, inside the server."""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import AMOUNT
from benchmarks.contenders.this_library import sent
from benchmarks.measure import progress
from voucher_sessions._core import scripts

_KEY, _TTL_MS = "@", 987_654_321  # stand in a call that is the model of all
_AT_ONCE = 1_000  # locks a script call, so that the server answers others in between
_NUMBERED = "old_%032d"

# validate.lua as a function, called with the model's keys and arguments, in which key and TTL are those of each lock.
# After the model's arguments: the first and the last number, and when the locks expire.
_MANY = f"""
local function validate(KEYS, ARGV)
{scripts.VALIDATE.text}
end
local of_model = #ARGV - 3
local time = redis.call('TIME')
local ttl_ms = ARGV[of_model + 3] - time[1] * 1000 - math.floor(time[2] / 1000)
for number = tonumber(ARGV[of_model + 1]), tonumber(ARGV[of_model + 2]) do
  local keys, args = {{}}, {{}}
  for i, key in ipairs(KEYS) do
    keys[i] = string.gsub(key, '{_KEY}', string.format('{_NUMBERED}', number))
  end
  for i = 1, of_model do
    args[i] = ARGV[i] == '{_KEY}' and string.format('{_NUMBERED}', number)
      or ARGV[i] == '{_TTL_MS}' and string.format('%.0f', ttl_ms + number % 1000)
      or ARGV[i]
  end
  validate(keys, args)
end
"""


def now_ms(admin: Any) -> int:
    """The server's time."""
    seconds, micros = admin.time()
    return int(seconds) * 1000 + int(micros) // 1000


def create_locks(admin: Any, code: str, locks: int, expires_at_ms: int) -> None:
    """Lock a voucher many times, until ``expires_at_ms`` or up to a second longer."""
    session = {"type": "LOCK", "key": _KEY, "ttl": _TTL_MS, "ttl_unit": "MILLISECONDS"}
    _, *model = sent(lambda engine: engine.validate(code, credits=AMOUNT, session=session))
    script = admin.script_load(_MANY)
    batches = range(0, locks, _AT_ONCE)
    for first in progress(f"{locks:,} locks in thousands", batches) if len(batches) > 100 else batches:
        last = min(locks, first + _AT_ONCE) - 1
        admin.evalsha(script, *model, first, last, expires_at_ms)
