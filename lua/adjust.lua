-- Adds to the limits of a voucher, or subtracts from them. If the adjustment id has a receipt already, the limits stay.
-- KEYS
--   vs:{CODE}                  STRING  the book
--   vs:{CODE}:locks            ZSET    its live locks
--   vs:{CODE}:adjustment:<id>  STRING  the receipt
-- ARGV
--   call_id                    the call id: begins the reply; stored in the receipt, shows on a retry that this call
--                              has written it
--   quantity                   what to add to the limit of the quantity; negative: what to subtract
--   credits                    what to add to the limit of the credits
--   points                     what to add to the limit of the points
--   receipt_ttl_ms             '': receipts do not expire
-- Status
--   again                      some expired locks were reclaimed, and more are left: call again
--   voucher_missing            1: there is no such voucher
--   adjustment_refused         which limit would leave its range, 1 quantity, 2 credits, 3 points; its present value
--                              (quantity -1: without limit)
--   adjusted                   the receipt; if there is a voucher, also its life, limits, used, locked (quantity,
--                              credits, points each)
-- include: constants
local book_key, locks_key, receipt_key, call_id, receipt_ttl_ms = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[5]
local again = false

local receipt = redis.call('GET', receipt_key)
if receipt and not string.find(receipt, '^1 %w+ %-?%d+ %-?%d+ %-?%d+ %w+$') then
  local value = receipt
  -- include: refuse
end
local text = redis.call('GET', book_key)
-- include: open
if not book and receipt then
  return {call_id, 'adjusted', receipt}
elseif not book then
  return {call_id, 'voucher_missing', 1}
end
-- include: clock
-- include: reclaim
if again then
  return {call_id, 'again'}
end

if not receipt then
  local changed = {}
  for i = 1, 3 do
    local limit, change = book[QUANTITY_LIMIT + i - 1], ARGV[i + 1] + 0
    changed[i] = limit + change
    if change ~= 0 and (limit < 0 or changed[i] < 0 or changed[i] > MAX_NUMBER) then
      return {call_id, 'adjustment_refused', i, limit}
    end
  end
  book[QUANTITY_LIMIT], book[CREDITS_LIMIT], book[POINTS_LIMIT] = unpack(changed)
  receipt = string.format('1 %s %s %s %s %s', book[LIFE], ARGV[2], ARGV[3], ARGV[4], call_id)
  -- include: set_receipt
  -- include: save
end
return {call_id, 'adjusted', receipt, book[LIFE], unpack(book, QUANTITY_LIMIT, POINTS_LOCKED)}
