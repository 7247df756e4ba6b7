-- Writes the receipt of a redemption that another system has made or that was lost here, and ends its session. If the
-- redemption id has a receipt already, nothing changes.
-- KEYS
--   vs:{CODE}                  STRING  the book
--   vs:{CODE}:session:<key>    STRING  the session's lock
--   vs:{CODE}:locks            ZSET    its live locks
--   vs:{CODE}:redemption:<id>  STRING  the receipt
-- ARGV
--   call_id                    the call id: begins the reply; stored in the receipt, shows on a retry that this call
--                              has written it
--   session_key                '': not known
--   count                      '1': add what it took and did not give back to what is used
--   redeemed_at_ms             '': now
--   credits                    taken
--   points                     taken
--   credits_back               given back by partial rollbacks
--   points_back                given back by partial rollbacks
--   rolled_back                '1': it was rolled back as a whole
--   receipt_ttl_ms             '': receipts do not expire
-- Status
--   voucher_missing            1: there is no such voucher
--   too_much                   1: what is used would exceed 2^53 - 1
--   receipts                   the receipt
-- include: constants
local book_key, session_name, locks_key, receipt_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local call_id, session_key, rolled_back, receipt_ttl_ms = ARGV[1], ARGV[2], ARGV[9], ARGV[10]
local receipt = redis.call('GET', receipt_key)
if receipt then
  return {call_id, 'receipts', receipt}
end
local text, session_text = unpack(redis.call('MGET', book_key, session_name))
-- include: open
if not book then
  return {call_id, 'voucher_missing', 1}
end
-- include: clock
-- include: session
if ARGV[3] == '1' and rolled_back ~= '1' then
  book[QUANTITY_USED] = book[QUANTITY_USED] + 1
  book[CREDITS_USED] = book[CREDITS_USED] + ARGV[5] - ARGV[7]
  book[POINTS_USED] = book[POINTS_USED] + ARGV[6] - ARGV[8]
  if math.max(book[QUANTITY_USED], book[CREDITS_USED], book[POINTS_USED]) > MAX_NUMBER then
    return {call_id, 'too_much', 1}
  end
end
if book[SESSION_TEXT] then
  -- include: unlock
end
-- '?': it is not known whether it was part of a stack, nor, without a session key, whether it had a session.
receipt = string.format('1 %s 1 %s %s %s %s ? %s,%s,%s ', book[LIFE], ARGV[5], ARGV[6],
  ARGV[4] == '' and string.format('%d', now) or ARGV[4], call_id, ARGV[7], ARGV[8], rolled_back == '1' and call_id or '-')
  .. session_key
-- include: set_receipt
-- include: save
return {call_id, 'receipts', receipt}
