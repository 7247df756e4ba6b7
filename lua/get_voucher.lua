-- Tells how a voucher stands.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
-- Status
--   again            expired locks were reclaimed and more are left: call again
--   voucher_missing  there is no such voucher
--   state            limits, used, locked (quantity, credits, points each)
-- include: book
local book = open_book(KEYS[1], KEYS[2])
if not book then
  return {'voucher_missing', 1}
end
if reclaim(book, clock()) then
  return {'again'}
end
return state(book)
