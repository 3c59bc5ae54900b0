-- A sale with one row for each unit: one call, one transaction, and nobody waits for a row that another has. Gives 1 when the unit is
-- theirs, 0 when none is left, -1 when they have one already.
CREATE TABLE unit (
    sku text NOT NULL,
    place bigint NOT NULL,
    PRIMARY KEY (sku, place)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE TABLE reservation (
    sku text NOT NULL,
    user_id text NOT NULL,
    place bigint NOT NULL,
    reserved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sku, user_id)
);
-- Units lie evenly between 0 and 2^31. A buyer looks from a place of their own on, and from the beginning only when nothing is behind it:
-- so that not everybody passes the same locked and deleted rows. One who comes twice at the same moment meets the primary key: the whole
-- call fails, and the unit stays.
CREATE FUNCTION reserve(product text, buyer text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    begin_at bigint := floor(random() * 2147483648);
    taken bigint;
BEGIN
    PERFORM FROM reservation WHERE sku = product AND user_id = buyer;
    IF FOUND THEN
        RETURN -1;
    END IF;
    DELETE FROM unit WHERE ctid = (
        SELECT ctid FROM unit WHERE sku = product AND place >= begin_at ORDER BY place LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING place INTO taken;
    IF taken IS NULL THEN
        DELETE FROM unit WHERE ctid = (
            SELECT ctid FROM unit WHERE sku = product ORDER BY place LIMIT 1 FOR UPDATE SKIP LOCKED
        ) RETURNING place INTO taken;
    END IF;
    IF taken IS NULL THEN
        RETURN 0;
    END IF;
    INSERT INTO reservation (sku, user_id, place) VALUES (product, buyer, taken);
    RETURN 1;
END
$$;
