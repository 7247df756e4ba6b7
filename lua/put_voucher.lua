-- Creates a voucher or changes its limits. Locks stay; used stays too unless figures are brought.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
--   life             random, for a voucher that is new
--   quantity         limit, '-' for none
--   credits          limit
--   points           limit
--   used             'keep', or 'bring' for the three figures that follow
--   used_quantity
--   used_credits
--   used_points
-- Status
--   again            expired locks were reclaimed and more are left: call again
--   state            limits, used, locked (quantity, credits, points each)
-- include: book
local book_key, locks_key = KEYS[1], KEYS[2]
local limits = ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4]

local text = redis.call('GET', book_key)
local book = open_book(book_key, locks_key, text or ARGV[1] .. ' ' .. limits .. ' 0 0 0 0 0 0 0 0')
if reclaim(book, clock()) then
  return {'again'}
end

book.head = book.life .. ' ' .. limits
book.limit = amounts(ARGV[2], ARGV[3], ARGV[4])
book.without_limit = ARGV[2] == '-'
if ARGV[5] == 'bring' then
  book.used = amounts(ARGV[6], ARGV[7], ARGV[8])
end
save_book(book)
if not text then
  -- An index without its book is a stranger's: its locks must never be taken out of this voucher's totals.
  redis.call('UNLINK', locks_key)
end
return state(book)
