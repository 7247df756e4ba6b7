-- Gives back what redemptions have taken, all or none, and each only once.
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
local RECEIPT = '^(1 (%w+) (%d+) (%d+) (%d+) %d+ %w+ %S+) (%S+) (.*)$'

local texts = redis.call('MGET', unpack(KEYS))
local reply, books = {call_id, 'receipts'}, {}
local missing = {call_id, 'redemption_missing'}
for i = 1, #KEYS / 2 do
  -- MGET returns nil for a key of another type, as for an absent one; GET raises an error for it.
  local book_key, text, receipt = KEYS[2 * i - 1], texts[2 * i - 1], texts[2 * i] or redis.call('GET', KEYS[2 * i])
  if not receipt then
    missing[#missing + 1] = i
  elseif not string.match(receipt, RECEIPT) then
    local value = receipt
    -- include: refuse
  end
  -- include: open
  books[i] = book or false
  reply[i + 2] = receipt
end
if missing[3] then
  return missing
end

for i, book in ipairs(books) do
  local book_key = KEYS[2 * i - 1]
  local taken, life, quantity, credits, points, rolled_back_by, session_key = string.match(texts[2 * i], RECEIPT)
  if rolled_back_by == '-' then
    reply[i + 2] = taken .. ' ' .. call_id .. ' ' .. session_key
    redis.call('SET', KEYS[2 * i], reply[i + 2], 'KEEPTTL')
    -- The redemption took nothing from a voucher that was put again after a deletion.
    if book and book[LIFE] == life then
      book[QUANTITY_USED] = math.max(0, book[QUANTITY_USED] - quantity)
      book[CREDITS_USED] = math.max(0, book[CREDITS_USED] - credits)
      book[POINTS_USED] = math.max(0, book[POINTS_USED] - points)
      -- include: save
    end
  end
end
return reply
