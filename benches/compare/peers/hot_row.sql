-- A sale in one row of stock: one call, one transaction. Gives 1 when the unit is theirs, 0 when none is left, -1 when they have one already.
CREATE TABLE stock (
    sku text PRIMARY KEY,
    available bigint NOT NULL CHECK (available >= 0)
) WITH (fillfactor = 10);
CREATE TABLE reservation (
    sku text NOT NULL,
    user_id text NOT NULL,
    reserved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sku, user_id)
);
-- The hot row is locked last, so that it is locked for as short as it can be: until the commit is on disk.
CREATE FUNCTION reserve(product text, buyer text) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM stock WHERE sku = product AND available > 0;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    INSERT INTO reservation (sku, user_id) VALUES (product, buyer) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN -1;
    END IF;
    UPDATE stock SET available = available - 1 WHERE sku = product AND available > 0;
    IF FOUND THEN
        RETURN 1;
    END IF;
    DELETE FROM reservation WHERE sku = product AND user_id = buyer;
    RETURN 0;
END
$$;
