-- Lists the live sessions of a voucher, the soonest to expire first.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   call_id          the call id: every reply begins with it
--   limit            how many sessions at most
--   from_ms          leave out the sessions that expire earlier, and in any case those that are not live
--   after            begin after this index member, if it is in the index and expires at from_ms; '': none
-- Status
--   voucher_missing  1: there is no such voucher
--   sessions         now_ms; for each session: '<credits> <points> <session key>', expires_at_ms
-- include: constants
local book_key, locks_key = KEYS[1], KEYS[2]
local call_id, limit, from_ms, after = ARGV[1], ARGV[2], ARGV[3] + 0, ARGV[4]
local text = redis.call('GET', book_key)
-- include: open
if not book then
  return {call_id, 'voucher_missing', 1}
end
-- include: clock
local reply = {}
if book[ONLY_KEY] == '' then
  local expires_at = from_ms > now and after ~= '' and redis.call('ZSCORE', locks_key, after)
  if expires_at and expires_at + 0 == from_ms then
    local first = redis.call('ZRANK', locks_key, after) + 1
    reply = redis.call('ZRANGE', locks_key, first, first + limit - 1, 'WITHSCORES')
  else
    reply = redis.call('ZRANGEBYSCORE', locks_key, string.format('%d', math.max(now + 1, from_ms)), '+inf',
      'WITHSCORES', 'LIMIT', 0, limit)
  end
elseif now < book[LOCKED_UNTIL] then
  -- include: only_lock
  if only_lock ~= after then
    reply = {only_lock, book[LOCKED_UNTIL]}
  end
end
table.insert(reply, 1, now)
table.insert(reply, 1, 'sessions')
table.insert(reply, 1, call_id)
return reply
