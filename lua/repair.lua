-- Sets the totals of a voucher's locks to what an audit has counted, unless the book has changed since the audit.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   call_id          the call id: every reply begins with it
--   audited          the value of the book's key at the audit
--   quantity         counted
--   credits          counted
--   points           counted
-- Status
--   repaired         1, or 0 if the book has changed since the audit
-- include: constants
local book_key, locks_key = KEYS[1], KEYS[2]
local call_id, audited = ARGV[1], ARGV[2]
local text = redis.call('GET', book_key)
if text ~= audited then
  return {call_id, 'repaired', 0}
end
-- include: open
if book[ONLY_KEY] ~= '' then
  -- include: index_only_lock
end
book[QUANTITY_LOCKED], book[CREDITS_LOCKED], book[POINTS_LOCKED] = ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0
book[NEXT_EXPIRY] = (redis.call('ZRANGE', locks_key, 0, 0, 'WITHSCORES')[2] or 0) + 0
book[LOCKED_UNTIL] = (redis.call('ZRANGE', locks_key, -1, -1, 'WITHSCORES')[2] or 0) + 0
-- include: save
-- include: expire_index
return {call_id, 'repaired', 1}
