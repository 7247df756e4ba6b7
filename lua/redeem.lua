-- Redeems vouchers for good, all or none, and removes the session that held them. A redemption id that has its
-- receipts already is answered with them, before anything else is looked at.
-- KEYS, for each voucher
--   vs:{CODE}                  STRING  the book
--   vs:{CODE}:locks            ZSET    its live locks
--   vs:{CODE}:session:<key>    STRING  the session's lock
--   vs:{CODE}:redemption:<id>  STRING  the receipt
-- ARGV
--   call                       random, of this call: tells its own receipt, found on a retry, from an earlier call's
--   session_key                '' for none
--   if_session_missing         'raise' or 'redeem'
--   receipt_ttl_ms             '' for good
-- ARGV, for each voucher
--   credits                    '-': what the session locked
--   points                     '-': what the session locked
-- Status
--   again                      expired locks were reclaimed and more are left: call again
--   receipts                   for each voucher its receipt
--   conflict                   the voucher that has a receipt of this id, while others of the stack have none
--   voucher_missing            the vouchers that do not exist
--   session_missing            the vouchers on which the session is not live
--   refused                    for each voucher: credits, points asked for; reason ('': it fits), locked_by_others,
--                              retry_after_ms, quantity (-1: without limit), credits, points available to the caller
-- include: book
local call, session_key, if_session_missing, receipt_ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local texts = redis.call('MGET', unpack(KEYS))
local vouchers = #KEYS / 4
local receipts, receipt_at = {'receipts'}, nil
for i = 1, vouchers do
  receipts[#receipts + 1] = texts[4 * i] or nil
  receipt_at = receipt_at or texts[4 * i] and i
end
if #receipts == 1 + vouchers then
  return receipts
elseif receipt_at then
  return {'conflict', receipt_at}
end

local now = clock()
local missing = {'voucher_missing'}
local books, again = {}, false
for i = 1, vouchers do
  local k = 4 * i - 3
  books[i] = open_book(KEYS[k], KEYS[k + 1], texts[k])
  if not books[i] then
    missing[#missing + 1] = i
  end
end
if #missing > 1 then
  return missing
end
for _, book in ipairs(books) do
  again = reclaim(book, now) or again
end
if again then
  return {'again'}
end

local reply, needs, locks, fits = {'refused'}, {}, {}, true
local not_live = {'session_missing'}
for i, book in ipairs(books) do
  local own = lock_of(book, session_key, texts[4 * i - 1], now)
  if own == NO_LOCK and session_key ~= '' and if_session_missing == 'raise' then
    not_live[#not_live + 1] = i
  end
  locks[i] = own
  needs[i] = {
    credits = tonumber(ARGV[2 * i + 3]) or own.credits,
    points = tonumber(ARGV[2 * i + 4]) or own.points,
  }
  reply[#reply + 1] = needs[i].credits
  reply[#reply + 1] = needs[i].points
  fits = judge(book, own, needs[i], now, reply) and fits
end
if #not_live > 1 then
  return not_live
elseif not fits then
  return reply
end

check_indexes(books)
for i, book in ipairs(books) do
  local need = needs[i]
  local taken = string.format('%s 1 %.0f %.0f %.0f %s', book.life, need.credits, need.points, now, call)
  local receipt = taken .. ' - ' .. session_key
  if locks[i] ~= NO_LOCK then
    unlock(book, locks[i], KEYS[4 * i - 1])
  end
  if receipt_ttl_ms == '' then
    redis.call('SET', KEYS[4 * i], receipt)
  else
    redis.call('SET', KEYS[4 * i], receipt, 'PX', receipt_ttl_ms)
  end
  add(book.used, 1, need.credits, need.points)
  save_book(book)
  receipts[i + 1] = receipt
end
return receipts
