-- Deletes a voucher with its locks. Its sessions end with its life, wherever their keys still stand.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   call             random, of this call: tells what its first try has deleted
-- Status
--   deleted          1, or 0 when there was no such voucher
-- include: constants
local book_key, locks_key = KEYS[1], KEYS[2]
local call = ARGV[1]

local text = redis.call('GET', book_key)
-- include: open
local calls = book and book[CALLS] or calls_until_deleted
local repeated = string.find(calls, call, 1, true)
if not book or repeated then
  return {'deleted', repeated and 1 or 0}
end
local tombstone = '["deleted","' .. string.sub(calls, -REMEMBERED) .. ' ' .. call .. '"]'
-- UNLINK frees a million locks without holding the server, which allows it, and what follows it, with its memory full.
redis.call('UNLINK', locks_key)
redis.call('SET', book_key, tombstone, 'PX', TOMBSTONE_MS)
return {'deleted', 1}
