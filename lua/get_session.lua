-- Reads a session of a voucher.
-- KEYS
--   vs:{CODE}                STRING  the book
--   vs:{CODE}:session:<key>  STRING  the session's lock
--   vs:{CODE}:locks          ZSET    its live locks
-- ARGV
--   call_id                  the call id: every reply begins with it
--   session_key
-- Status
--   voucher_missing          1: there is no such voucher
--   session_missing          1: the session is not live
--   live                     now_ms; expires_at_ms, credits, points of the lock
-- include: constants
local book_key, session_name, locks_key, call_id, session_key = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
local text, session_text = unpack(redis.call('MGET', book_key, session_name))
-- MGET returns nil for a key of another type, as for an absent one; GET raises an error for it.
session_text = session_text or redis.call('GET', session_name)
-- include: open
if not book then
  return {call_id, 'voucher_missing', 1}
end
-- include: clock
-- include: session
if own_quantity == 0 then
  return {call_id, 'session_missing', 1}
end
return {call_id, 'live', now, own_expires_at, own_credits, own_points}
