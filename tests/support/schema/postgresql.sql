-- Glance 33's own tables of images, locations and cached images, in PostgreSQL. A test compares them with what
-- `glance-manage db_sync` makes.

CREATE TABLE node_reference (
    node_reference_id bigserial PRIMARY KEY,
    node_reference_url varchar(255) NOT NULL,
    CONSTRAINT uq_node_reference_node_reference_url UNIQUE (node_reference_url)
);

CREATE TABLE cached_images (
    id bigserial PRIMARY KEY,
    image_id varchar(36) NOT NULL,
    last_accessed timestamp NOT NULL,
    last_modified timestamp NOT NULL,
    size bigint NOT NULL,
    hits integer NOT NULL,
    checksum varchar(32),
    node_reference_id bigint NOT NULL REFERENCES node_reference (node_reference_id),
    CONSTRAINT ix_cached_images_image_id_node_reference_id UNIQUE (image_id, node_reference_id)
);

CREATE TYPE image_visibility AS ENUM ('private', 'public', 'shared', 'community');

CREATE TABLE images (
    id varchar(36) PRIMARY KEY,
    name varchar(255),
    size bigint,
    status varchar(30) NOT NULL,
    created_at timestamp NOT NULL,
    updated_at timestamp,
    deleted_at timestamp,
    deleted boolean NOT NULL,
    disk_format varchar(20),
    container_format varchar(20),
    checksum varchar(32),
    owner varchar(255),
    min_disk integer NOT NULL,
    min_ram integer NOT NULL,
    protected boolean DEFAULT false NOT NULL,
    virtual_size bigint,
    visibility image_visibility DEFAULT 'shared' NOT NULL,
    os_hidden boolean DEFAULT false NOT NULL,
    os_hash_algo varchar(64),
    os_hash_value varchar(128)
);
CREATE INDEX checksum_image_idx ON images (checksum);
CREATE INDEX created_at_image_idx ON images (created_at);
CREATE INDEX ix_images_deleted ON images (deleted);
CREATE INDEX os_hash_value_image_idx ON images (os_hash_value);
CREATE INDEX os_hidden_image_idx ON images (os_hidden);
CREATE INDEX owner_image_idx ON images (owner);
CREATE INDEX updated_at_image_idx ON images (updated_at);
CREATE INDEX visibility_image_idx ON images (visibility);

CREATE TABLE image_locations (
    id serial PRIMARY KEY,
    image_id varchar(36) NOT NULL REFERENCES images (id),
    value text NOT NULL,
    created_at timestamp NOT NULL,
    updated_at timestamp,
    deleted_at timestamp,
    deleted boolean NOT NULL,
    meta_data text,
    status varchar(30) DEFAULT 'active' NOT NULL
);
CREATE INDEX ix_image_locations_deleted ON image_locations (deleted);
CREATE INDEX ix_image_locations_image_id ON image_locations (image_id);
