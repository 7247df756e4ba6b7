-- Lists the live sessions of a voucher, the soonest to expire first.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   call_id          the call id: every reply begins with it
--   limit            how many sessions at most
-- Status
--   voucher_missing  1: there is no such voucher
--   sessions         now_ms; for each session: '<credits> <points> <session key>', expires_at_ms
-- include: constants
local book_key, locks_key = KEYS[1], KEYS[2]
local call_id, limit = ARGV[1], ARGV[2]
local text = redis.call('GET', book_key)
-- include: open
if not book then
  return {call_id, 'voucher_missing', 1}
end
-- include: clock
local reply = {}
if book[ONLY_KEY] == '' then
  reply = redis.call('ZRANGEBYSCORE', locks_key, '(' .. string.format('%d', now), '+inf',
    'WITHSCORES', 'LIMIT', 0, limit)
elseif now < book[LOCKED_UNTIL] then
  -- include: only_lock
  reply = {only_lock, book[LOCKED_UNTIL]}
end
table.insert(reply, 1, now)
table.insert(reply, 1, 'sessions')
table.insert(reply, 1, call_id)
return reply
