-- Lists the live sessions of a voucher, soonest to expire first.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   limit            how many at most
-- Status
--   voucher_missing  there is no such voucher
--   sessions         now_ms; for each: '<credits> <points> <session key>', expires_at_ms
-- include: book
local locks_key = KEYS[2]
local limit = ARGV[1]

if not open_book(KEYS[1], locks_key) then
  return {'voucher_missing', 1}
end
local now = clock()
local reply = redis.call('ZRANGEBYSCORE', locks_key, '(' .. digits(now), '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
table.insert(reply, 1, now)
table.insert(reply, 1, 'sessions')
return reply
