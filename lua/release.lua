-- Releases the locks of a session; used stays.
-- KEYS, for each voucher
--   vs:{CODE}                STRING  the book
--   vs:{CODE}:session:<key>  STRING  the session's lock
--   vs:{CODE}:locks          ZSET    its live locks
-- ARGV
--   call_id                  the call id: begins the reply; on a retry, shows that an earlier try has released the lock
--   session_key
-- Status
--   released                 for each voucher 1; 2 if the session is not live, but its key shows that it was; else 0
-- include: constants
local call_id, session_key = ARGV[1], ARGV[2]
-- include: clock

local texts = redis.call('MGET', unpack(KEYS, 1, #KEYS - 1)) -- not the last: an index
local reply, books = {call_id, 'released'}, {}
for i = 1, #KEYS / 3 do
  local book_key, session_name, locks_key, text = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i], texts[3 * i - 2]
  -- MGET returns nil for a key of another type, as for an absent one; GET raises an error for it.
  local session_text = texts[3 * i - 1] or redis.call('GET', session_name)
  -- include: open
  books[i], reply[i + 2] = book or false, session_text and 2 or 0
  if book then
    -- include: session
    if call_ids and string.find(call_ids, call_id, 1, true) then
      reply[i + 2], books[i] = 1, false -- a retry: a lock that was set since then stays
    elseif own_quantity == 1 then
      reply[i + 2] = 1
    end
  elseif session_text and string.find(session_text, call_id, 1, true) then
    reply[i + 2] = 1 -- a retry: the voucher was deleted since then
  end
  if #KEYS > 3 then
    redis.call('ZCARD', locks_key) -- raises an error for a key of another type, before anything is written
  end
end

for i = 1, #books do
  local book, book_key, session_name, locks_key = books[i], KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  if book and book[SESSION_TEXT] then
    -- include: unlock
    -- include: save
  end
end
return reply
