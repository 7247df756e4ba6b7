-- Judges whether vouchers can be redeemed, and locks them all for a session, or none. Vouchers without amounts, after
-- the others, are released by the same session if the others are locked.
-- KEYS, for each voucher
--   vs:{CODE}                STRING  the book
--   vs:{CODE}:locks          ZSET    its live locks
--   vs:{CODE}:session:<key>  STRING  the session's lock
-- ARGV
--   session_key              '' to lock nothing
--   ttl_ms                   of the locks
-- ARGV, for each voucher
--   credits
--   points
-- Status
--   again                    expired locks were reclaimed and more are left: call again
--   answered                 now_ms; for each voucher: reason ('': it fits), locked_by_others, retry_after_ms,
--                            quantity (-1: without limit), credits, points available to the caller; expires_at_ms,
--                            credits, points of the caller's live lock (0 0 0: none)
-- include: book
local session_key, ttl_ms = ARGV[1], ARGV[2]
local vouchers = (#ARGV - 2) / 2
local now = clock()

local texts = redis.call('MGET', unpack(KEYS))
local books, again = {}, false
for i = 1, #KEYS / 3 do
  local k = 3 * i - 2
  local book = open_book(KEYS[k], KEYS[k + 1], texts[k]) or false
  -- What is only released is not judged, so the locks that have expired there can wait.
  again = book and i <= vouchers and reclaim(book, now) or again
  books[i] = book
end
if again then
  return {'again'}
end

local reply, needs, locks, fits = {'answered', now}, {}, {}, true
for i, book in ipairs(books) do
  locks[i] = book and lock_of(book, session_key, texts[3 * i], now) or NO_LOCK
  if i <= vouchers then
    needs[i] = {credits = tonumber(ARGV[2 * i + 1]), points = tonumber(ARGV[2 * i + 2])}
    if book then
      fits = judge(book, locks[i], needs[i], now, reply) and fits
    else
      fits = false
      for _, value in ipairs({'not_found', 0, 0, 0, 0, 0}) do
        reply[#reply + 1] = value
      end
    end
    reply[#reply + 1] = locks[i].expires_at
    reply[#reply + 1] = locks[i].credits
    reply[#reply + 1] = locks[i].points
  end
end
if not fits or session_key == '' then
  return reply
end

check_indexes(books)
local expires_at = now + ttl_ms
for i, book in ipairs(books) do
  if i <= vouchers then
    local need = needs[i]
    lock(book, locks[i], KEYS[3 * i], session_key, need, expires_at)
    save_book(book)
    reply[9 * i], reply[9 * i + 1], reply[9 * i + 2] = expires_at, need.credits, need.points
  elseif locks[i] ~= NO_LOCK then
    unlock(book, locks[i], KEYS[3 * i])
    save_book(book)
  end
end
return reply
