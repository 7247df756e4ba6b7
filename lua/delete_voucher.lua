-- Deletes a voucher with its locks. Its sessions end with its life, wherever their keys still stand.
-- KEYS
--   vs:{CODE}        STRING  the book
--   vs:{CODE}:locks  ZSET    its live locks
-- ARGV
-- Status
--   deleted          1, or 0 when there was no such voucher
-- include: book
local book_key, locks_key = KEYS[1], KEYS[2]

local existed = open_book(book_key, locks_key) and 1 or 0
-- UNLINK frees a million locks without holding the server.
redis.call('UNLINK', book_key, locks_key)
return {'deleted', existed}
