-- Creates a voucher or changes its limits. Locks stay; used stays too unless figures are brought.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   call             random, of this call: tells what its first try has written; the life of a voucher that is new
--   quantity         limit, -1 for none
--   credits          limit
--   points           limit
--   used             'keep', or 'bring' for the three figures that follow
--   used_quantity
--   used_credits
--   used_points
-- Status
--   again            expired locks were reclaimed and more are left: call again
--   state            limits, used, locked (quantity, credits, points each)
-- include: constants
local book_key, locks_key = KEYS[1], KEYS[2]
local call, used = ARGV[1], ARGV[5]
local again = false

local text = redis.call('GET', book_key)
-- include: open
local is_new = not book
if is_new then
  book = {call, calls_until_deleted, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ''}
end
-- include: clock
-- include: reclaim
if again then
  return {'again'}
end

local repeated = string.find(book[CALLS], call, 1, true)
if is_new or not repeated then
  book[CALLS] = string.sub(book[CALLS], -REMEMBERED) .. ' ' .. call
  book[QUANTITY_LIMIT], book[CREDITS_LIMIT], book[POINTS_LIMIT] = ARGV[2] + 0, ARGV[3] + 0, ARGV[4] + 0
  if used == 'bring' then
    book[QUANTITY_USED], book[CREDITS_USED], book[POINTS_USED] = ARGV[6] + 0, ARGV[7] + 0, ARGV[8] + 0
  end
  if not repeated then -- else it has been deleted since, and is answered as it was
    -- include: save
    if is_new then
      -- An index without its book is a stranger's: its locks must never be taken out of this voucher's totals.
      redis.call('UNLINK', locks_key)
    end
  end
end
-- include: state
