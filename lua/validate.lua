-- Checks whether vouchers can be redeemed and, for a session, locks all of them or none. KEYS may end with vouchers
-- that have no amounts in ARGV: if the others are locked, the session's locks on these are released.
-- KEYS, for each voucher
--   vs:{CODE}                STRING  the book
--   vs:{CODE}:session:<key>  STRING  the session's lock
--   vs:{CODE}:locks          ZSET    its live locks
-- ARGV
--   call_id                  the call id: begins the reply; on a retry, shows that an earlier try has set the lock
--   session_key              '': lock nothing
--   ttl_ms                   the time to live of the locks
-- ARGV, for each voucher
--   credits
--   points
-- Status
--   again                    some expired locks were reclaimed, and more are left: call again
--   answered                 now_ms; for each voucher: reason ('': it fits), locked_by_others, retry_after_ms,
--                            quantity (-1: without limit), credits, points available to the caller; expires_at_ms,
--                            credits, points of the caller's live lock (0, 0, 0: none)
-- include: constants
local call_id, session_key, ttl_ms = ARGV[1], ARGV[2], ARGV[3]
local vouchers = (#ARGV - 3) / 2
-- include: clock

local texts = redis.call('MGET', unpack(KEYS, 1, #KEYS - 1)) -- not the last: an index
local reply = {call_id, 'answered', now, '', 0, 0, 0, 0, 0, 0, 0, 0} -- preallocated: growing a table takes time
local books, again, fits, repeated = {}, false, true, false
local session_names, sessions = {}, 0
for i = 1, #KEYS / 3 do
  local book_key, session_name, locks_key = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local text, session_text = texts[3 * i - 2], texts[3 * i - 1]
  -- include: open
  books[i] = book or false
  if book then
    -- include: session
    if i <= vouchers then
      local n = 9 * i - 6
      reply[n + 7], reply[n + 8], reply[n + 9] = own_expires_at, own_credits, own_points
      if call_ids and string.find(call_ids, call_id, 1, true) then
        repeated = expires_at_text + 0
      end
    end
  end
  if #KEYS > 3 and session_key ~= '' then
    redis.call('ZCARD', locks_key) -- raises an error for a key of another type, before anything is written
    session_names[i] = session_name
    sessions = sessions + (texts[3 * i - 1] and 1 or 0)
  end
end
if session_names[2] and redis.call('EXISTS', unpack(session_names)) ~= sessions then
  error('CORRUPT ' .. KEYS[1]) -- a session's key of another type, for which MGET has returned nil
end

for i = 1, vouchers do
  local book, book_key, locks_key, n = books[i], KEYS[3 * i - 2], KEYS[3 * i], 9 * i - 6
  if book then
    -- include: reclaim
    local credits, points = ARGV[2 * i + 2] + 0, ARGV[2 * i + 3] + 0
    -- include: judge
  else
    fits = false
    reply[n + 1] = 'not_found'
    for k = 2, 9 do
      reply[n + k] = 0
    end
  end
end
if again then
  return {call_id, 'again'}
elseif repeated then
  -- A retry gets the first result. Of some vouchers the lock may have ended since, and a deleted one is not_found.
  for i = 1, vouchers do
    if books[i] then
      local n = 9 * i - 6
      reply[n + 1], reply[n + 2], reply[n + 3] = '', 0, 0
      reply[n + 7], reply[n + 8], reply[n + 9] = repeated, ARGV[2 * i + 2] + 0, ARGV[2 * i + 3] + 0
    end
  end
end
if not fits or repeated or session_key == '' then
  return reply
end

local expires_at = now + ttl_ms
local expires_at_text = string.format('%d', expires_at)
for i = 1, #books do
  local book, book_key, session_name, locks_key = books[i], KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  if i <= vouchers then
    local credits, points, earlier = ARGV[2 * i + 2], ARGV[2 * i + 3], texts[3 * i - 1]
    -- include: lock
    -- include: save
    reply[9 * i + 1], reply[9 * i + 2], reply[9 * i + 3] = expires_at, credits + 0, points + 0
  elseif book and book[SESSION_TEXT] then
    -- include: unlock
    -- include: save
  end
end
return reply
