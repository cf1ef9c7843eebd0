/* A client of the C interface, as a game would write one. Talks to the server that tests/c.rs
 * starts, checks what it sees, ends with 0 or says what was wrong.
 *
 * client PORT TRANSPORT [AUTHORITY.pem] */
#include "proscenium_connector.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);       \
            fprintf(stderr, "last error: %s\n", psc_last_error());                \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

struct game {
    int connected, disconnected, failed, pushes;
    int answers;
    uint16_t code;
    char answer[64];
    PscConnector *to_free;
};

static void on_connected(void *user_data)
{
    struct game *game = user_data;
    game->connected++;
}

static void on_connect_failed(void *user_data, const char *reason, bool reconnecting)
{
    struct game *game = user_data;
    CHECK(strlen(reason) > 0 && !reconnecting);
    game->failed++;
}

static void on_disconnected(void *user_data, const char *reason, bool reconnecting)
{
    struct game *game = user_data;
    CHECK(strlen(reason) > 0 && !reconnecting);
    game->disconnected++;
}

static void on_received(void *user_data, const PscPacket *packet)
{
    struct game *game = user_data;
    CHECK(strcmp(packet->msg_id, "News") == 0 && packet->msg_id_len == 4);
    CHECK(packet->payload_len == 6 && memcmp(packet->payload, "pushed", 6) == 0);
    CHECK(packet->stage_id == 1 && packet->error == 0);
    game->pushes++;
    if (game->to_free) {
        psc_connector_free(game->to_free);
        game->to_free = NULL;
    }
}

static void on_answer(void *user_data, uint16_t code, const PscPacket *packet)
{
    struct game *game = user_data;
    size_t len = packet ? packet->payload_len : 0;
    CHECK(len < sizeof game->answer);
    if (len > 0)
        memcpy(game->answer, packet->payload, len);
    game->answer[len] = 0;
    game->code = code;
    game->answers++;
}

/* One frame of the game after the other, until the counter has the value. */
static void pump(const PscConnector *connector, const int *counter, int value)
{
    const struct timespec frame = {0, 1000000};
    int frames = 0;
    while (*counter < value) {
        CHECK(frames++ < 120000);
        if (psc_main_thread_action(connector) == 0)
            nanosleep(&frame, NULL);
    }
    CHECK(*counter == value);
}

static const uint8_t *bytes(const char *text)
{
    return (const uint8_t *)text;
}

static void log_in(PscConnector *connector, struct game *game)
{
    CHECK(psc_connect(connector) == PSC_STATUS_OK);
    CHECK(psc_connect(connector) == PSC_STATUS_ALREADY_CONNECTED);
    pump(connector, &game->connected, game->connected + 1);
    CHECK(psc_is_connected(connector) && !psc_is_authenticated(connector));
    CHECK(psc_send(connector, 1, "Early", NULL, 0) == PSC_STATUS_UNAUTHENTICATED);
    CHECK(psc_authenticate(connector, 1, "AuthenticateRequest", bytes("token"), 5, on_answer,
                           game) == PSC_STATUS_OK);
    pump(connector, &game->answers, game->answers + 1);
    CHECK(game->code == 0 && strcmp(game->answer, "welcome") == 0);
    CHECK(psc_is_authenticated(connector));
}

/* What is wrong on our side is told, and nothing is called. */
static void misuse(const PscOptions *good, PscConnector *connector, struct game *game)
{
    PscConnector *none = (PscConnector *)game;
    PscOptions bad = *good;
    int answers = game->answers;
    char long_id[130];

    bad.size = 3;
    CHECK(psc_connector_new(&bad, NULL, &none) == PSC_STATUS_INVALID_ARGUMENT && !none);
    bad = *good;
    bad.host = NULL;
    CHECK(psc_connector_new(&bad, NULL, &none) == PSC_STATUS_INVALID_ARGUMENT);
    bad.host = "\xff";
    CHECK(psc_connector_new(&bad, NULL, &none) == PSC_STATUS_INVALID_ARGUMENT);
    bad = *good;
    bad.transport = 4;
    CHECK(psc_connector_new(&bad, NULL, &none) == PSC_STATUS_INVALID_ARGUMENT);
    bad = *good;
    bad.heartbeat_ms = bad.dead_after_ms;
    CHECK(psc_connector_new(&bad, NULL, &none) == PSC_STATUS_INVALID_OPTIONS);
    CHECK(strstr(psc_last_error(), "dead_after"));
    bad = *good;
    bad.transport = PSC_TRANSPORT_TLS;
    bad.client_certificate_pem = "no key with it";
    CHECK(psc_connector_new(&bad, NULL, &none) == PSC_STATUS_INVALID_ARGUMENT);
    bad.client_key_pem = "no key";
    CHECK(psc_connector_new(&bad, NULL, &none) == PSC_STATUS_INVALID_OPTIONS);
    bad = *good;
    bad.transport = PSC_TRANSPORT_TLS;
    bad.trust_pem = "no certificate";
    CHECK(psc_connector_new(&bad, NULL, &none) == PSC_STATUS_INVALID_OPTIONS && !none);
    CHECK(psc_connector_new(NULL, NULL, &none) == PSC_STATUS_INVALID_ARGUMENT);
    CHECK(psc_connector_new(good, NULL, NULL) == PSC_STATUS_INVALID_ARGUMENT);

    memset(long_id, 'x', sizeof long_id - 1);
    long_id[sizeof long_id - 1] = 0;
    CHECK(psc_send(NULL, 1, "M", NULL, 0) == PSC_STATUS_INVALID_ARGUMENT);
    CHECK(psc_send(connector, 1, NULL, NULL, 0) == PSC_STATUS_INVALID_ARGUMENT);
    CHECK(psc_send(connector, 1, "M", NULL, 1) == PSC_STATUS_INVALID_ARGUMENT);
    CHECK(psc_send(connector, 1, "M", bytes("x"), SIZE_MAX) == PSC_STATUS_INVALID_ARGUMENT);
    CHECK(psc_send(connector, 1, "\xff", NULL, 0) == PSC_STATUS_INVALID_ARGUMENT);
    CHECK(psc_send(connector, 1, "", NULL, 0) == PSC_STATUS_ID_LENGTH);
    CHECK(psc_request(connector, 1, long_id, NULL, 0, on_answer, game) == PSC_STATUS_ID_LENGTH);
    CHECK(strstr(psc_last_error(), "129"));
    CHECK(psc_request_wait(connector, 1, "M", NULL, 0, NULL, NULL) ==
          PSC_STATUS_INVALID_ARGUMENT);
    CHECK(psc_connect(NULL) == PSC_STATUS_INVALID_ARGUMENT);
    CHECK(!psc_is_connected(NULL) && !psc_is_authenticated(NULL));
    CHECK(psc_main_thread_action(NULL) == 0);
    psc_disconnect(NULL);
    psc_connector_free(NULL);
    psc_response_free(NULL);
    psc_options_init(NULL);
    CHECK(psc_main_thread_action(connector) == 0 && game->answers == answers);
}

/* Sends, requests, pushes, both kinds of answers. */
static void play(PscConnector *connector, struct game *game)
{
    PscResponse *response = NULL;
    PscPacket packet;
    uint16_t code = 1;
    int i;

    CHECK(psc_send(connector, 1, "PushMe", NULL, 0) == PSC_STATUS_OK);
    pump(connector, &game->pushes, 1);

    for (i = 0; i < 100; i++)
        CHECK(psc_request(connector, 1, "Echo", bytes("hello"), 5, on_answer, game) ==
              PSC_STATUS_OK);
    pump(connector, &game->answers, game->answers + 100);
    CHECK(game->code == 0 && strcmp(game->answer, "hello") == 0);

    CHECK(psc_request(connector, 1, "Refuse", NULL, 0, on_answer, game) == PSC_STATUS_OK);
    pump(connector, &game->answers, game->answers + 1);
    CHECK(game->code == 1234 && strcmp(game->answer, "no") == 0);
    CHECK(psc_request(connector, 1, "Echo", NULL, 0, NULL, NULL) == PSC_STATUS_OK);

    CHECK(psc_request_wait(connector, 1, "Echo", bytes("wait"), 4, &code, &response) ==
          PSC_STATUS_OK);
    CHECK(code == 0 && response);
    CHECK(psc_response_packet(response, &packet) == PSC_STATUS_OK);
    CHECK(strcmp(packet.msg_id, "Echo") == 0 && packet.stage_id == 1);
    CHECK(packet.payload_len == 4 && memcmp(packet.payload, "wait", 4) == 0);
    psc_response_free(response);
    CHECK(psc_request_wait(connector, 1, "Refuse", NULL, 0, &code, &response) == PSC_STATUS_OK);
    CHECK(code == 1234 && response);
    psc_response_free(response);

    /* One that nobody answers: with its own time-out, far below that of the options. */
    CHECK(psc_request_wait_within(connector, 20, 1, "Never", NULL, 0, &code, &response) ==
          PSC_STATUS_OK);
    CHECK(code == 60202 && !response);
    CHECK(psc_request_within(connector, 20, 1, "Never", NULL, 0, on_answer, game) ==
          PSC_STATUS_OK);
    pump(connector, &game->answers, game->answers + 1);
    CHECK(game->code == 60202);
}

int main(int argc, char **argv)
{
    struct game game = {0};
    PscCallbacks callbacks = {0};
    PscConnector *connector = NULL;
    PscOptions options;
    char pem[8192] = {0};
    int answers;

    CHECK(argc >= 3);
    psc_options_init(&options);
    options.host = "127.0.0.1";
    options.port = (uint16_t)atoi(argv[1]);
    options.transport = atoi(argv[2]);
    if (argc > 3) {
        FILE *file = fopen(argv[3], "r");
        CHECK(file && fread(pem, 1, sizeof pem - 1, file) > 0);
        fclose(file);
        options.trust_pem = pem;
        options.server_name = "play.test";
    }
    callbacks.user_data = &game;
    callbacks.on_connected = on_connected;
    callbacks.on_connect_failed = on_connect_failed;
    callbacks.on_disconnected = on_disconnected;
    callbacks.on_received = on_received;

    CHECK(psc_connector_new(&options, &callbacks, &connector) == PSC_STATUS_OK && connector);
    CHECK(psc_send(connector, 1, "M", NULL, 0) == PSC_STATUS_DISCONNECTED);
    misuse(&options, connector, &game);
    log_in(connector, &game);
    play(connector, &game);

    /* Leaving fails what is pending, and one can come back. */
    answers = game.answers;
    CHECK(psc_request(connector, 1, "Never", NULL, 0, on_answer, &game) == PSC_STATUS_OK);
    psc_disconnect(connector);
    CHECK(!psc_is_connected(connector));
    pump(connector, &game.disconnected, 1);
    CHECK(game.answers == answers + 1 && game.code == PSC_STATUS_DISCONNECTED);
    log_in(connector, &game);

    /* Every promised answer is called, the last ones while freeing. */
    answers = game.answers;
    CHECK(psc_request(connector, 1, "Never", NULL, 0, on_answer, &game) == PSC_STATUS_OK);
    psc_connector_free(connector);
    CHECK(game.answers == answers + 1 && game.code == PSC_STATUS_DISCONNECTED);
    CHECK(game.disconnected == 1);

    /* A callback may free its connector. */
    CHECK(psc_connector_new(&options, &callbacks, &connector) == PSC_STATUS_OK);
    log_in(connector, &game);
    game.to_free = connector;
    game.pushes = 0;
    CHECK(psc_send(connector, 1, "PushMe", NULL, 0) == PSC_STATUS_OK);
    while (game.pushes == 0)
        psc_main_thread_action(connector);
    CHECK(game.to_free == NULL);

    /* Callbacks at once, on the background thread, which is gone when the connector is. */
    options.io_thread_callbacks = true;
    options.port = 1;
    CHECK(psc_connector_new(&options, NULL, &connector) == PSC_STATUS_OK);
    CHECK(psc_connect(connector) == PSC_STATUS_OK);
    CHECK(psc_main_thread_action(connector) == 0);
    psc_connector_free(connector);

    /* Nobody listens there. */
    options.io_thread_callbacks = false;
    CHECK(psc_connector_new(&options, &callbacks, &connector) == PSC_STATUS_OK);
    CHECK(psc_connect(connector) == PSC_STATUS_OK);
    pump(connector, &game.failed, 1);
    psc_connector_free(connector);
    puts("ok");
    return 0;
}
