-- Adds up a part of a voucher's locks, for a comparison with the totals in its book.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   call_id          the call id: every reply begins with it
--   from             the rank of the first lock of this part
--   most             how many locks at most
-- Status
--   again            some expired locks were reclaimed, and more are left: call again
--   voucher_missing  1: there is no such voucher
--   counted          the value of the book's key; locked (quantity, credits, points each) by the book, and as counted
--                    in this part; 1 if all locks expire between the book's next_expiry and locked_until, else 0;
--                    the rank of the first lock of the next part, or -1 if there is none
-- include: constants
local book_key, locks_key = KEYS[1], KEYS[2]
local call_id, from, most = ARGV[1], ARGV[2] + 0, ARGV[3] + 0
local again = false
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

local members = redis.call('ZRANGE', locks_key, from, from + most - 1)
local quantity_counted, credits_counted, points_counted = #members, 0, 0
for _, member in ipairs(members) do
  local credits, points = string.match(member, '^(%d+) (%d+) ')
  if not credits then
    error('CORRUPT ' .. locks_key)
  end
  credits_counted, points_counted = credits_counted + credits, points_counted + points
end
if book[ONLY_KEY] ~= '' and from == 0 then
  -- include: only_lock
  -- A script that was refused half-way can have put it into the index and left it in the book, too.
  if not redis.call('ZSCORE', locks_key, only_lock) then
    quantity_counted = quantity_counted + 1
    credits_counted, points_counted = credits_counted + book[CREDITS_LOCKED], points_counted + book[POINTS_LOCKED]
  end
end
local first = redis.call('ZRANGE', locks_key, 0, 0, 'WITHSCORES')[2] or book[LOCKED_UNTIL]
local last = redis.call('ZRANGE', locks_key, -1, -1, 'WITHSCORES')[2] or book[LOCKED_UNTIL]
return {
  call_id, 'counted',
  redis.call('GET', book_key),
  book[QUANTITY_LOCKED], book[CREDITS_LOCKED], book[POINTS_LOCKED],
  quantity_counted, credits_counted, points_counted,
  book[NEXT_EXPIRY] <= first + 0 and last + 0 <= book[LOCKED_UNTIL] and 1 or 0,
  #members == most and from + most or -1,
}
