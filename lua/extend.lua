-- Gives the locks of a live session a new expiry, all or none. The amounts stay, and limits are not checked.
-- KEYS, for each voucher
--   vs:{CODE}                STRING  the book
--   vs:{CODE}:session:<key>  STRING  the session's lock
--   vs:{CODE}:locks          ZSET    its live locks
-- ARGV
--   call_id                  the call id: begins the reply; on a retry, shows that an earlier try has set the expiry
--   session_key
--   ttl_ms                   the time to live of the locks from now on
-- Status
--   voucher_missing          the vouchers that do not exist
--   session_missing          the vouchers on which the session is not live
--   live                     now_ms; for each voucher: expires_at_ms, credits, points of the lock
-- include: constants
local call_id, session_key, ttl_ms = ARGV[1], ARGV[2], ARGV[3]
-- include: clock

local texts = redis.call('MGET', unpack(KEYS, 1, #KEYS - 1)) -- not the last: an index
local reply, books, repeated = {call_id, 'live', now}, {}, false
local missing = {call_id, 'voucher_missing'}
local not_live = {call_id, 'session_missing'}
for i = 1, #KEYS / 3 do
  local book_key, session_name, locks_key, text = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i], texts[3 * i - 2]
  -- MGET returns nil for a key of another type, as for an absent one; GET raises an error for it.
  local session_text = texts[3 * i - 1] or redis.call('GET', session_name)
  if session_text and string.find(session_text, call_id, 1, true) then
    -- A retry: it gets the first result, even if the session has ended or the voucher was deleted since.
    local expires_at_text, credits_text, points_text = string.match(session_text, '^1 %w+ (%d+) (%d+) (%d+) ')
    reply[3 * i + 1], reply[3 * i + 2], reply[3 * i + 3] = expires_at_text + 0, credits_text + 0, points_text + 0
    repeated = true
  else
    -- include: open
    books[i] = book
    if book then
      -- include: session
      if own_quantity == 0 then
        not_live[#not_live + 1] = i
      end
      reply[3 * i + 1], reply[3 * i + 2], reply[3 * i + 3] = own_expires_at, own_credits, own_points
    else
      missing[#missing + 1] = i
    end
  end
  if #KEYS > 3 then
    redis.call('ZCARD', locks_key) -- raises an error for a key of another type, before anything is written
  end
end
if missing[3] then
  return missing
elseif not_live[3] then
  return not_live
elseif repeated then
  return reply
end

local expires_at = now + ttl_ms
local expires_at_text = string.format('%d', expires_at)
for i, book in ipairs(books) do
  local book_key, session_name, locks_key, earlier = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i], texts[3 * i - 1]
  local credits, points = book[OWN_CREDITS], book[OWN_POINTS]
  -- include: lock
  -- include: save
  reply[3 * i + 1] = expires_at
end
return reply
