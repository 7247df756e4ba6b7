-- Releases a session's locks; what was redeemed stays.
-- KEYS, for each voucher
--   vs:{CODE}                STRING  the book
--   vs:{CODE}:locks          ZSET    its live locks
--   vs:{CODE}:session:<key>  STRING  the session's lock
-- ARGV
--   session_key
-- Status
--   released                 for each voucher 1, or 0 when the session was not live
-- include: book
local session_key = ARGV[1]
local now = clock()

local texts = redis.call('MGET', unpack(KEYS))
local reply, books, locks = {'released'}, {}, {}
for i = 1, #KEYS / 3 do
  local k = 3 * i - 2
  local book = open_book(KEYS[k], KEYS[k + 1], texts[k]) or false
  books[i] = book
  locks[i] = book and lock_of(book, session_key, texts[k + 2], now) or NO_LOCK
  reply[i + 1] = locks[i].quantity
end

check_indexes(books)
for i, book in ipairs(books) do
  if locks[i] ~= NO_LOCK then
    unlock(book, locks[i], KEYS[3 * i])
    save_book(book)
  end
end
return reply
