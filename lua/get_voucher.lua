-- Reads the limits of a voucher, and how much of it is used and locked.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   call_id          the call id: every reply begins with it
-- Status
--   again            some expired locks were reclaimed, and more are left: call again
--   voucher_missing  1: there is no such voucher
--   state            limits, used, locked (quantity, credits, points each)
-- include: constants
local book_key, locks_key = KEYS[1], KEYS[2]
local call_id, again = ARGV[1], false
local text = redis.call('GET', book_key)
-- include: open
if not book then
  return {call_id, 'voucher_missing', 1}
end
-- include: clock
-- include: reclaim
if again then
  return {call_id, 'again'}
end
return {call_id, 'state', unpack(book, QUANTITY_LIMIT, POINTS_LOCKED)}
