-- Redeems vouchers permanently, all or none, and ends the session that locked them. If the redemption id has receipts
-- already, the script returns them before it checks anything else.
-- KEYS, for each voucher
--   vs:{CODE}                  STRING  the book
--   vs:{CODE}:session:<key>    STRING  the session's lock
--   vs:{CODE}:locks            ZSET    its live locks
--   vs:{CODE}:redemption:<id>  STRING  the receipt
-- ARGV
--   call_id                    the call id: begins the reply; stored in the receipt, shows on a retry that this call
--                              has written it
--   session_key                '': without a session
--   if_session_missing         'raise' or 'redeem'
--   receipt_ttl_ms             '': receipts do not expire
--   stack                      the fingerprint of the stack's codes, '-' for a single voucher
-- ARGV, for each voucher
--   credits                    '-': as many as the session has locked
--   points                     '-': as many as the session has locked
-- Status
--   again                      some expired locks were reclaimed, and more are left: call again
--   receipts                   for each voucher the receipt
--   conflict                   the first voucher that has a receipt of this id, while others of the stack have none
--   voucher_missing            the vouchers that do not exist
--   session_missing            the vouchers on which the session is not live
--   amount_required            the vouchers that have credits or points, without a live session and without amounts
--   refused                    for each voucher: credits, points requested; reason ('': it fits), locked_by_others,
--                              retry_after_ms, quantity (-1: without limit), credits, points available to the caller
-- include: constants
local call_id, session_key, if_session_missing, receipt_ttl_ms, stack = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local vouchers = #KEYS / 4

local receipts, receipt_at = {call_id, 'receipts', false}, nil
for i = 1, vouchers do
  -- GET, since MGET returns nil for a key of another type, as for a receipt that is absent.
  local receipt = redis.call('GET', KEYS[4 * i])
  if receipt then
    receipts[i + 2], receipt_at = receipt, receipt_at or i
  elseif receipt_at then
    return {call_id, 'conflict', receipt_at}
  end
end
if receipt_at == 1 then
  return receipts
elseif receipt_at then
  return {call_id, 'conflict', receipt_at}
end

-- include: clock
local texts = redis.call('MGET', unpack(KEYS, 1, #KEYS - 2)) -- not the last two: an index, and an absent receipt
local reply = {call_id, 'refused', 0, 0, '', 0, 0, 0, 0, 0} -- preallocated: growing a table takes time
local books, again, fits = {}, false, true
local missing = {call_id, 'voucher_missing'}
local not_live = {call_id, 'session_missing'}
local without_amounts = {call_id, 'amount_required'}
for i = 1, vouchers do
  local book_key, session_name, locks_key, text = KEYS[4 * i - 3], KEYS[4 * i - 2], KEYS[4 * i - 1], texts[4 * i - 3]
  -- MGET returns nil for a key of another type, as for an absent one; GET raises an error for it.
  local session_text = texts[4 * i - 2] or session_key ~= '' and redis.call('GET', session_name)
  -- include: open
  books[i] = book
  if book then
    -- include: session
    local credits, points = ARGV[2 * i + 4], ARGV[2 * i + 5]
    if own_quantity == 0 and session_key ~= '' and if_session_missing == 'raise' then
      not_live[#not_live + 1] = i
    elseif own_quantity == 0 and credits == '-' and points == '-' and (book[CREDITS_LIMIT] > 0 or book[CREDITS_USED] > 0
      or book[POINTS_LIMIT] > 0 or book[POINTS_USED] > 0) then
      without_amounts[#without_amounts + 1] = i
    end
    reply[8 * i - 5] = credits == '-' and own_credits or credits + 0
    reply[8 * i - 4] = points == '-' and own_points or points + 0
  else
    missing[#missing + 1] = i
  end
  if vouchers > 1 then
    redis.call('ZCARD', locks_key) -- raises an error for a key of another type, before anything is written
  end
end
if missing[3] then
  return missing
elseif not_live[3] then
  return not_live
elseif without_amounts[3] then
  return without_amounts
end

for i = 1, vouchers do
  local book, book_key, locks_key, n = books[i], KEYS[4 * i - 3], KEYS[4 * i - 1], 8 * i - 4
  -- include: reclaim
  local credits, points = reply[n - 1], reply[n]
  -- include: judge
end
if again then
  return {call_id, 'again'}
elseif not fits then
  return reply
end

for i = 1, vouchers do
  local book, book_key, session_name, locks_key = books[i], KEYS[4 * i - 3], KEYS[4 * i - 2], KEYS[4 * i - 1]
  local receipt_key, credits, points = KEYS[4 * i], reply[8 * i - 5], reply[8 * i - 4]
  if book[SESSION_TEXT] then
    -- include: unlock
  end
  local receipt = string.format('1 %s 1 %d %d %d %s %s - ', book[LIFE], credits, points, now, call_id, stack) .. session_key
  -- include: set_receipt
  book[QUANTITY_USED] = book[QUANTITY_USED] + 1
  book[CREDITS_USED] = book[CREDITS_USED] + credits
  book[POINTS_USED] = book[POINTS_USED] + points
  -- include: save
  receipts[i + 2] = receipt
end
return receipts
