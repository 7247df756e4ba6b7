-- Gives back a part of the credits and points that a redemption has taken. If the rollback id has a receipt already,
-- the script returns it before it checks anything else.
-- KEYS
--   vs:{CODE}                  STRING  the book
--   vs:{CODE}:redemption:<id>  STRING  the receipt
--   vs:{CODE}:rollback:<id>    STRING  the receipt of this rollback
-- ARGV
--   call_id                    the call id: begins the reply; stored in the receipt of the rollback, shows on a retry
--                              that this call has written it
--   redemption_id
--   credits
--   points
-- Status
--   rollback                   the receipt of the rollback
--   redemption_missing         1: there is no such receipt of a redemption
--   exceeded                   which amount is too large, 1 credits, 2 points; how much of it the redemption has left
-- include: constants
local book_key, call_id, credits, points = KEYS[1], ARGV[1], ARGV[3] + 0, ARGV[4] + 0
local rollback = redis.call('GET', KEYS[3])
if rollback then
  return {call_id, 'rollback', rollback}
end
local receipt = redis.call('GET', KEYS[2])
if not receipt then
  return {call_id, 'redemption_missing', 1}
end
-- include: receipt
local text = redis.call('GET', book_key)
-- include: open
if rolled_back_by ~= '-' then
  credits_left, points_left = 0, 0
end
if credits > credits_left then
  return {call_id, 'exceeded', 1, credits_left}
elseif points > points_left then
  return {call_id, 'exceeded', 2, points_left}
end

rollback = string.format('1 %d %d %s ', credits, points, call_id) .. ARGV[2]
local ttl_ms = redis.call('PTTL', KEYS[2])
if ttl_ms < 0 then
  redis.call('SET', KEYS[3], rollback)
else
  redis.call('SET', KEYS[3], rollback, 'PX', math.max(1, ttl_ms)) -- as long as the receipt of the redemption
end
receipt = string.format('%s %d,%d,- ', redemption, credits_back + credits, points_back + points) .. receipt_session
redis.call('SET', KEYS[2], receipt, 'KEEPTTL')
local quantity = 0
-- include: give_back
return {call_id, 'rollback', rollback}
