/*
 * C interface of the Proscenium connector, a client of Proscenium Play servers.
 *
 * Made by cbindgen from connector/ffi/src/. Do not edit; see connector/ffi/README.md.
 *
 * Threads: functions may be called from any thread, also at the same time, with the one exception
 * that psc_connector_free must be the last call with its connector. Callbacks run in
 * psc_main_thread_action, on the thread that calls it, or, with io_thread_callbacks, on a
 * background thread that all connectors share. They may call any function here. They must
 * return: no longjmp and no C++ exception may leave them.
 *
 * Ownership: what is passed in is copied before the function returns and stays the caller's. What
 * a callback is given is valid until it returns. Only psc_connector_new and psc_request_wait give
 * something away, and each names the function that frees it.
 */


#ifndef PROSCENIUM_CONNECTOR_H
#define PROSCENIUM_CONNECTOR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/**
 * How a call went.
 */
typedef enum PscStatus {
  /**
   * Done, or begun.
   */
  PSC_STATUS_OK = 0,
  /**
   * A pointer that must not be null is, a text is not UTF-8, or a size is too large.
   */
  PSC_STATUS_INVALID_ARGUMENT = -1,
  /**
   * The options contradict each other, a certificate cannot be used, or the system refused the
   * background thread; see psc_last_error.
   */
  PSC_STATUS_INVALID_OPTIONS = -2,
  /**
   * There is a connection, or an attempt under way.
   */
  PSC_STATUS_ALREADY_CONNECTED = -3,
  /**
   * The send queue is full, or as many requests as allowed wait. Try again later.
   */
  PSC_STATUS_FULL = -4,
  /**
   * The packet would be longer than the server takes.
   */
  PSC_STATUS_TOO_LONG = -5,
  /**
   * The message id has not 1 to 128 bytes.
   */
  PSC_STATUS_ID_LENGTH = -6,
  /**
   * Waiting is not possible in a callback on the background thread: it would wait for itself.
   */
  PSC_STATUS_WOULD_DEADLOCK = -7,
  /**
   * A defect in this library; see psc_last_error.
   */
  PSC_STATUS_PANIC = -8,
  /**
   * There is no connection.
   */
  PSC_STATUS_DISCONNECTED = 60201,
  /**
   * The connection has not authenticated.
   */
  PSC_STATUS_UNAUTHENTICATED = 60203,
} PscStatus;

/**
 * What carries the packets.
 */
typedef enum PscTransport {
  /**
   * TCP.
   */
  PSC_TRANSPORT_TCP = 0,
  /**
   * TLS 1.3 on TCP.
   */
  PSC_TRANSPORT_TLS = 1,
  /**
   * WebSocket on TCP.
   */
  PSC_TRANSPORT_WS = 2,
  /**
   * WebSocket on TLS 1.3.
   */
  PSC_TRANSPORT_WSS = 3,
} PscTransport;

/**
 * A connection to a Play server, or the wish for one.
 */
typedef struct PscConnector PscConnector;

/**
 * An answer that psc_request_wait gave away. Free it with psc_response_free.
 */
typedef struct PscResponse PscResponse;

/**
 * The options of a connector. Fill it with psc_options_init, then change what is wanted.
 */
typedef struct PscOptions {
  /**
   * Bytes of this structure, as psc_options_init sets it.
   */
  size_t size;
  /**
   * Name or address of the server, UTF-8. Has to be set.
   */
  const char *host;
  /**
   * Port of the server. Has to be set.
   */
  uint16_t port;
  /**
   * A value of PscTransport. TCP.
   */
  int32_t transport;
  /**
   * Path that a WebSocket asks for, or null for "/ws".
   */
  const char *path;
  /**
   * Certificates of authorities (PEM) that are trusted besides the public ones, or null.
   */
  const char *trust_pem;
  /**
   * 32 bytes, the SHA-256 of the one server certificate (DER) that is trusted, or null. The
   * authorities and the name then do not count.
   */
  const uint8_t *pin_sha256;
  /**
   * Likewise, of the certificate's public key (SubjectPublicKeyInfo, DER), which outlives
   * renewals, or null.
   */
  const uint8_t *pin_public_key_sha256;
  /**
   * The name that the server's certificate has to have, or null for the host.
   */
  const char *server_name;
  /**
   * The certificate (PEM, with those that issued it behind it) that is shown to a server that
   * asks for one, or null. Together with client_key_pem.
   */
  const char *client_certificate_pem;
  /**
   * The private key of that certificate (PEM), or null.
   */
  const char *client_key_pem;
  /**
   * True if the length of a packet is big-endian. False.
   */
  bool length_big_endian;
  /**
   * True to run callbacks on the background thread, at once. False.
   */
  bool io_thread_callbacks;
  /**
   * True to connect and authenticate again when a connection was lost. False.
   */
  bool reconnect;
  /**
   * Attempts to reconnect after each loss, 0 for no end. 0.
   */
  uint32_t reconnect_attempts;
  /**
   * Delay before the first attempt to reconnect, in milliseconds; it doubles. 200.
   */
  uint32_t reconnect_first_ms;
  /**
   * The greatest delay between attempts, in milliseconds. 30000.
   */
  uint32_t reconnect_max_ms;
  /**
   * Interval of heartbeats, in milliseconds; 0 for none. 10000.
   */
  uint32_t heartbeat_ms;
  /**
   * Silence after which the server is dead, in milliseconds; 0 for never. 30000.
   */
  uint32_t dead_after_ms;
  /**
   * How long connecting may take, in milliseconds. 30000.
   */
  uint32_t connect_timeout_ms;
  /**
   * How long a request waits for its answer, in milliseconds. 30000.
   */
  uint32_t request_timeout_ms;
  /**
   * The longest packet in either direction, in bytes. 2 MiB.
   */
  size_t packet_bytes_max;
  /**
   * Bytes that may wait to be sent. 4 MiB.
   */
  size_t send_queue_bytes_max;
  /**
   * Events that may wait for psc_main_thread_action; then nothing is read. 10000.
   */
  size_t event_queue_max;
  /**
   * Bytes of such events. 16 MiB.
   */
  size_t event_queue_bytes_max;
  /**
   * Requests that may wait for their answers, at most 65535. 1024.
   */
  size_t requests_max;
} PscOptions;

/**
 * A packet from the server. Valid, with all that it points to, until the callback returns that
 * was given it (or until psc_response_free).
 */
typedef struct PscPacket {
  /**
   * What the message is: UTF-8, with a zero byte behind it.
   */
  const char *msg_id;
  /**
   * Bytes of the message id, without the zero byte.
   */
  size_t msg_id_len;
  /**
   * The stage that it comes from.
   */
  int64_t stage_id;
  /**
   * 0, or the server's error code.
   */
  uint16_t error;
  /**
   * The message itself. Not null.
   */
  const uint8_t *payload;
  /**
   * Bytes of the payload; may be 0.
   */
  size_t payload_len;
} PscPacket;

/**
 * What is called for events. Any of the functions may be null.
 */
typedef struct PscCallbacks {
  /**
   * Given to each of the functions; never looked at. What it points to has to live until
   * psc_connector_free has returned.
   */
  void *user_data;
  /**
   * There is a connection. It has to authenticate, which after reconnecting happens by itself.
   */
  void (*on_connected)(void *user_data);
  /**
   * An attempt to connect failed. With `reconnecting` a further one follows.
   */
  void (*on_connect_failed)(void *user_data, const char *reason, bool reconnecting);
  /**
   * After reconnecting the server took the credentials again; this is its answer.
   */
  void (*on_reauthenticated)(void *user_data, const struct PscPacket *packet);
  /**
   * The server sent something that is not the answer to a request.
   */
  void (*on_received)(void *user_data, const struct PscPacket *packet);
  /**
   * The connection ended. With `reconnecting` attempts to have a new one follow.
   */
  void (*on_disconnected)(void *user_data, const char *reason, bool reconnecting);
} PscCallbacks;

/**
 * Called with the answer to a request: `code` 0 and a packet; the server's error code and a
 * packet; or 60201 (disconnected) or 60202 (request timeout) and null.
 */
typedef void (*PscAnswer)(void *user_data, uint16_t code, const struct PscPacket *packet);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Sets every option to its default; host and port have none. Threads: any. Does nothing with
 * null.
 *
 * # Safety
 * `options` is null or points to writable memory for a PscOptions.
 */
void psc_options_init(struct PscOptions *options);

/**
 * Makes a connector, not connected yet, and puts it into `*connector`; null is put there when it
 * cannot be made. Threads: any. Ownership: the connector is the caller's, to be freed with
 * psc_connector_free; options, callbacks and texts are copied.
 *
 * # Safety
 * `options` points to options that psc_options_init has filled, whose texts end with a zero byte
 * and whose pins have 32 bytes. `callbacks` is null or points to callbacks whose functions have
 * the declared types. `connector` points to writable memory for a pointer.
 */
enum PscStatus psc_connector_new(const struct PscOptions *options,
                                 const struct PscCallbacks *callbacks,
                                 struct PscConnector **connector);

/**
 * Closes the connector and frees it. Answers that psc_request and psc_authenticate promised and
 * that did not come are called here, with 60201. When it returns no callback runs and none will,
 * unless it is called in one. What was sent before still goes out, for at most half a second,
 * which freeing the last connector waits for. Threads: any, but as the last call with this
 * connector; it may be called in a callback. Does nothing with null.
 *
 * # Safety
 * `connector` is null or came from psc_connector_new and was not freed.
 */
void psc_connector_free(struct PscConnector *connector);

/**
 * Begins to connect; on_connected or on_connect_failed tells how it went. Threads: any.
 *
 * # Safety
 * `connector` came from psc_connector_new and was not freed.
 */
enum PscStatus psc_connect(const struct PscConnector *connector);

/**
 * Ends the connection, or the attempt to have one, and any reconnecting; on_disconnected tells.
 * Requests without an answer fail with 60201. Threads: any. Does nothing with null.
 *
 * # Safety
 * `connector` is null or came from psc_connector_new and was not freed.
 */
void psc_disconnect(const struct PscConnector *connector);

/**
 * True while there is a connection. Threads: any. False with null.
 *
 * # Safety
 * `connector` is null or came from psc_connector_new and was not freed.
 */
bool psc_is_connected(const struct PscConnector *connector);

/**
 * True while connected and authenticated. Threads: any. False with null.
 *
 * # Safety
 * `connector` is null or came from psc_connector_new and was not freed.
 */
bool psc_is_authenticated(const struct PscConnector *connector);

/**
 * Runs the callbacks that are due, here and now, and returns how many. It never waits. Within a
 * callback it does nothing. Threads: any, one at a time runs callbacks, others wait for it.
 *
 * # Safety
 * `connector` came from psc_connector_new and was not freed.
 */
size_t psc_main_thread_action(const struct PscConnector *connector);

/**
 * Sends a message without an answer. PSC_STATUS_OK says that it is in the queue. Threads: any.
 * Ownership: id and payload are copied.
 *
 * # Safety
 * `connector` came from psc_connector_new and was not freed. `msg_id` ends with a zero byte.
 * `payload` points to `payload_len` bytes, or is null and `payload_len` 0.
 */
enum PscStatus psc_send(const struct PscConnector *connector,
                        int64_t stage_id,
                        const char *msg_id,
                        const uint8_t *payload,
                        size_t payload_len);

/**
 * Sends a message and calls back with its answer. With PSC_STATUS_OK, `on_answer` is called
 * exactly once, at the latest in psc_connector_free; with anything else never. Threads: any.
 * Ownership: id and payload are copied; what `user_data` points to has to live until the call.
 *
 * # Safety
 * As for psc_send. `on_answer` is null or a function of the declared type.
 */
enum PscStatus psc_request(const struct PscConnector *connector,
                           int64_t stage_id,
                           const char *msg_id,
                           const uint8_t *payload,
                           size_t payload_len,
                           PscAnswer on_answer,
                           void *user_data);

/**
 * psc_request with a time-out of its own, in milliseconds, instead of that of the options.
 * Threads, ownership: as for psc_request.
 *
 * # Safety
 * As for psc_request.
 */
enum PscStatus psc_request_within(const struct PscConnector *connector,
                                  uint32_t timeout_ms,
                                  int64_t stage_id,
                                  const char *msg_id,
                                  const uint8_t *payload,
                                  size_t payload_len,
                                  PscAnswer on_answer,
                                  void *user_data);

/**
 * Authenticates: a request that is allowed before, and has to come before, any other message.
 * `on_answer` is called as for psc_request; with code 0 the connection is authenticated, another
 * code keeps the connection, to try again. Threads, ownership: as for psc_request.
 *
 * # Safety
 * As for psc_request.
 */
enum PscStatus psc_authenticate(const struct PscConnector *connector,
                                int64_t stage_id,
                                const char *msg_id,
                                const uint8_t *payload,
                                size_t payload_len,
                                PscAnswer on_answer,
                                void *user_data);

/**
 * Sends a message and waits for its answer, for at most the request timeout; no other callback
 * runs meanwhile on this thread. With PSC_STATUS_OK, `*code` is as for PscAnswer, and
 * `*response` is the answer, or null if none came. Threads: any, but PSC_STATUS_WOULD_DEADLOCK in
 * callbacks on the background thread. Ownership: id and payload are copied; the response is the
 * caller's, to be freed with psc_response_free.
 *
 * # Safety
 * As for psc_send. `code` and `response` point to writable memory.
 */
enum PscStatus psc_request_wait(const struct PscConnector *connector,
                                int64_t stage_id,
                                const char *msg_id,
                                const uint8_t *payload,
                                size_t payload_len,
                                uint16_t *code,
                                struct PscResponse **response);

/**
 * psc_request_wait with a time-out of its own, in milliseconds, instead of that of the options.
 * Threads, ownership: as for psc_request_wait.
 *
 * # Safety
 * As for psc_request_wait.
 */
enum PscStatus psc_request_wait_within(const struct PscConnector *connector,
                                       uint32_t timeout_ms,
                                       int64_t stage_id,
                                       const char *msg_id,
                                       const uint8_t *payload,
                                       size_t payload_len,
                                       uint16_t *code,
                                       struct PscResponse **response);

/**
 * Puts what the response has into `*packet`: pointers into the response, valid until
 * psc_response_free. Threads: any.
 *
 * # Safety
 * `response` came from psc_request_wait and was not freed; `packet` points to writable memory.
 */
enum PscStatus psc_response_packet(const struct PscResponse *response, struct PscPacket *packet);

/**
 * Frees a response. Threads: any. Does nothing with null.
 *
 * # Safety
 * `response` is null or came from psc_request_wait and was not freed.
 */
void psc_response_free(struct PscResponse *response);

/**
 * In words, what was wrong with the last call on this thread that returned another status than
 * PSC_STATUS_OK. Never null; empty if there was none. Threads: each has its own.
 * Ownership: ours; valid until the next call of any function here on this thread.
 */
const char *psc_last_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PROSCENIUM_CONNECTOR_H */
