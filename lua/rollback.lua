-- Gives back the rest of what redemptions took, all or none, and each only once.
-- KEYS, for each voucher
--   vs:{CODE}                  STRING  the book
--   vs:{CODE}:redemption:<id>  STRING  the receipt
-- ARGV
--   call_id                    the call id: begins the reply; stored in the receipt, shows on a retry that this call
--                              has rolled it back
-- Status
--   receipts                   for each voucher the receipt
--   redemption_missing         the vouchers that have no such receipt
-- include: constants
local call_id = ARGV[1]

local texts = redis.call('MGET', unpack(KEYS))
local reply, books, given_back = {call_id, 'receipts'}, {}, {}
local missing = {call_id, 'redemption_missing'}
for i = 1, #KEYS / 2 do
  -- MGET returns nil for a key of another type, as for an absent one; GET raises an error for it.
  local book_key, text, receipt = KEYS[2 * i - 1], texts[2 * i - 1], texts[2 * i] or redis.call('GET', KEYS[2 * i])
  if receipt then
    -- include: receipt
    if rolled_back_by == '-' then
      receipt = string.format('%s %d,%d,%s ', redemption, credits_back, points_back, call_id) .. receipt_session
      given_back[i] = {receipt_life, credits_left, points_left}
    end
    reply[i + 2] = receipt
  else
    missing[#missing + 1] = i
  end
  -- include: open
  books[i] = book or false
end
if missing[3] then
  return missing
end

for i, book in ipairs(books) do
  if given_back[i] then
    local book_key, quantity, receipt_life, credits, points = KEYS[2 * i - 1], 1, unpack(given_back[i])
    redis.call('SET', KEYS[2 * i], reply[i + 2], 'KEEPTTL')
    -- include: give_back
  end
end
return reply
