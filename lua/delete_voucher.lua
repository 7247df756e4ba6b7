-- Deletes a voucher with its locks. Session keys that remain contain its life, which no later voucher has, so their
-- locks are ignored.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   call_id          the call id: begins the reply; on a retry, shows that an earlier try has deleted it
-- Status
--   deleted          1, or 0 if there was no such voucher
-- include: constants
local book_key, locks_key = KEYS[1], KEYS[2]
local call_id = ARGV[1]

local text = redis.call('GET', book_key)
-- include: open
local call_ids = book and book[CALL_IDS] or tombstone_call_ids
local repeated = string.find(call_ids, call_id, 1, true)
if not book or repeated then
  return {call_id, 'deleted', repeated and 1 or 0}
end
local tombstone = '1["deleted","' .. string.sub(call_ids, -REMEMBERED) .. ' ' .. call_id .. '"]'
-- UNLINK frees even a million locks in the background. A server that is out of memory executes it, and then the SET.
redis.call('UNLINK', locks_key)
redis.call('SET', book_key, tombstone, 'PX', TOMBSTONE_MS)
return {call_id, 'deleted', 1}
