from voucher_sessions import Voucher
def test_x(engine, clock):
    engine.put_voucher(Voucher(code="a", quantity=1))
    v = engine.validate("a", session={"type": "LOCK", "key": "k", "ttl": 50, "ttl_unit": "MILLISECONDS"})
    assert v.valid
    assert not engine.validate("a").valid
    clock.reach(int(v.session.expires_at.timestamp() * 1000) )
    assert engine.validate("a").valid
