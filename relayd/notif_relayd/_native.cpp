// SPDX-License-Identifier: Apache-2.0
//
// The fast path: one call that waits for events, reads a batch of plain valid records from one
// producer, and sends it to a few sockets. fastpath.py states the contract, _native.pyi documents
// the functions. Everything else is left to Python, and no state is kept between two calls, except
// for the parser's buffers.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <simdjson.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstring>
#include <optional>
#include <string_view>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

namespace {

constexpr int MAX_EVENTS = 1023;         // events of one epoll_wait(2), as in select.epoll.poll
constexpr int MAX_SOCKETS = 64;          // for more, shared_pages.py is faster
constexpr size_t MAX_SIZE = 128 * 1024;  // bytes of a plain record
constexpr size_t MAX_DEPTH = 64;         // levels of nested values in a plain record
constexpr Py_ssize_t MAX_RECENT = 8;     // routing keys that are compared with the next one

// What a valid record is.
struct Rules {
    const char *prefix;  // of an event_type that Python has to check
    Py_ssize_t prefix_size;
    Py_ssize_t limit;  // bytes of a record, its newline included
};

simdjson::dom::parser *parser;

bool is_reserved(std::string_view text, const Rules &rules)
{
    return !text.compare(0, rules.prefix_size, rules.prefix, rules.prefix_size);
}

// The event_type, priority and publisher_id of a record.
using RoutingKey = std::array<std::string_view, 3>;

// Returns the routing key of a line if it is a plain valid record. simdjson reads up to
// SIMDJSON_PADDING bytes beyond the end of the line; if fewer than that are readable after `line`,
// the line is copied first.
std::optional<RoutingKey> routing_key_of(const char *line, size_t size, size_t readable,
                                         const Rules &rules)
{
    static char padded[MAX_SIZE + simdjson::SIMDJSON_PADDING];
    simdjson::dom::object record;
    bool has_event_type = false, has_priority = false;
    RoutingKey key{"", "", ""};
    auto &[event_type, priority, publisher_id] = key;

    if (*line != '{' || size > MAX_SIZE || static_cast<Py_ssize_t>(size) > rules.limit)
        return {};
    if (readable - size < simdjson::SIMDJSON_PADDING) {
        memcpy(padded, line, size);
        line = padded;
    }
    if (parser->parse(line, size, false).get(record))
        return {};
    // If a field is given twice, its last value counts, but all of them must be valid.
    for (const auto [name, value] : record) {
        if (name == "event_type") {
            if (value.get(event_type) || is_reserved(event_type, rules))
                return {};
            has_event_type = true;
        } else if (name == "priority") {
            if (value.get(priority))
                return {};
            has_priority = true;
        } else if (name == "publisher_id" && value.get(publisher_id)) {
            publisher_id = "";
        }
    }
    if (!has_event_type || !has_priority)
        return {};
    return key;
}

bool is_equal(PyObject *tuple, const RoutingKey &key)
{
    for (size_t i = 0; i < key.size(); i++) {
        Py_ssize_t size;
        const char *const value = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(tuple, i), &size);

        if (!value || std::string_view(value, size) != key[i])
            return false;
    }
    return true;
}

// Returns a new reference to a routing key as a tuple. Most records of a host have one of a few
// routing keys, so the last tuples of `previous` are looked through for an equal one first.
PyObject *tuple_of(const RoutingKey &key, PyObject *previous)
{
    const Py_ssize_t count = PyList_GET_SIZE(previous);

    for (Py_ssize_t i = count - 1; i >= 0 && i >= count - MAX_RECENT; i--) {
        PyObject *const tuple = PyList_GET_ITEM(previous, i);

        if (is_equal(tuple, key)) {
            Py_INCREF(tuple);
            return tuple;
        }
        if (PyErr_Occurred())
            return nullptr;
    }
    return Py_BuildValue("(s#s#s#)", key[0].data(), key[0].size(), key[1].data(), key[1].size(),
                         key[2].data(), key[2].size());
}

// Returns the routing keys of a batch as a new list: one for each line if all lines are plain valid
// records, and otherwise none. Returns null with an exception set if memory is exhausted.
// `readable` is the number of readable bytes from `batch` on, at least `size`.
PyObject *routing_keys_of(const char *batch, size_t size, size_t readable, const Rules &rules)
{
    const char *const end = batch + size;
    const char *const readable_end = batch + readable;
    PyObject *const routing_keys = PyList_New(0);

    if (!routing_keys || !size || end[-1] != '\n')
        return routing_keys;
    for (const char *line = batch; line < end;) {
        const char *const next = static_cast<const char *>(memchr(line, '\n', end - line)) + 1;
        const auto key = routing_key_of(line, next - line, readable_end - line, rules);
        PyObject *const tuple = key ? tuple_of(*key, routing_keys) : nullptr;

        if (!tuple || PyList_Append(routing_keys, tuple)) {
            Py_XDECREF(tuple);
            // A string that simdjson accepts and Python does not: the record is not plain.
            if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_UnicodeError))
                PyErr_Clear();
            if (PyErr_Occurred() || PyList_SetSlice(routing_keys, 0, PY_SSIZE_T_MAX, nullptr)) {
                Py_DECREF(routing_keys);
                return nullptr;
            }
            break;
        }
        Py_DECREF(tuple);
        line = next;
    }
    return routing_keys;
}

PyObject *native_routing_keys_of(PyObject *, PyObject *args)
{
    PyObject *lines;
    Rules rules;

    if (!PyArg_ParseTuple(args, "S(y#n):routing_keys_of", &lines, &rules.prefix, &rules.prefix_size,
                          &rules.limit))
        return nullptr;
    const size_t size = PyBytes_GET_SIZE(lines);
    return routing_keys_of(PyBytes_AS_STRING(lines), size, size, rules);
}

// Where batches are sent.
struct Recipients {
    int count;
    int sockets[MAX_SOCKETS];
    Py_ssize_t max_records[MAX_SOCKETS];
};

// Sends a batch to each recipient that may get so many records, in order. Returns a new list with
// one result for each recipient: the bytes that its socket took, the negative error number, or None
// if the batch was not sent to it. All sends precede the first allocation.
PyObject *send_all(const char *batch, Py_ssize_t size, Py_ssize_t records, const Recipients &to)
{
    ssize_t sent[MAX_SOCKETS];
    PyObject *results;

    for (int i = 0; i < to.count; i++) {
        if (records > to.max_records[i])
            continue;
        sent[i] = send(to.sockets[i], batch, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent[i] < 0)
            sent[i] = -errno;
    }
    if (!(results = PyList_New(to.count)))
        return nullptr;
    for (int i = 0; i < to.count; i++) {
        PyObject *const result = records > to.max_records[i] ? Py_NewRef(Py_None)
                                                             : PyLong_FromSsize_t(sent[i]);

        if (!result) {
            Py_DECREF(results);
            return nullptr;
        }
        PyList_SET_ITEM(results, i, result);
    }
    return results;
}

// Reads like recv(2), but never takes file descriptors that a peer has passed; see ancillary.py. If
// the kernel cannot refuse them (`peek`), the message is peeked at first; returns -1 if it carries
// any.
ssize_t receive(int fd, char *data, size_t room, bool peek)
{
    if (peek) {
        struct iovec buffer = {data, room};
        struct msghdr message = {};

        message.msg_iov = &buffer;
        message.msg_iovlen = 1;
        const ssize_t size = recvmsg(fd, &message, MSG_DONTWAIT | MSG_PEEK);
        if (size <= 0 || message.msg_flags & MSG_CTRUNC)
            return -1;
        room = size;
    }
    return recv(fd, data, room, MSG_DONTWAIT);
}

// Reads from one producer into `batch`, shrinks `batch` to what was read, and sends it if all
// records are plain and valid. Returns a new tuple (producer, batch, routing keys, results). Returns
// null if nothing was read, or with an exception set.
PyObject *relay(int fd, PyObject *producer, PyObject **batch, const Rules &rules,
                const Recipients &to, Py_ssize_t threshold, bool peek)
{
    char *const data = PyBytes_AS_STRING(*batch);
    const Py_ssize_t room = PyBytes_GET_SIZE(*batch);
    const ssize_t size = receive(fd, data, room, peek);
    PyObject *routing_keys, *results;

    if (size <= 0)
        return nullptr;
    if (!(routing_keys = routing_keys_of(data, size, room, rules)))
        return nullptr;
    const Py_ssize_t records = PyList_GET_SIZE(routing_keys);
    results = records && size < threshold ? send_all(data, size, records, to) : PyList_New(0);
    if (!results || _PyBytes_Resize(batch, size)) {
        Py_XDECREF(results);
        Py_DECREF(routing_keys);
        return nullptr;
    }
    return Py_BuildValue("(OONN)", producer, *batch, routing_keys, results);
}

PyObject *list_of(const struct epoll_event *events, int count)
{
    PyObject *const list = PyList_New(count);

    for (int i = 0; list && i < count; i++) {
        PyObject *const event = Py_BuildValue("(iI)", events[i].data.fd, events[i].events);

        if (!event) {
            Py_DECREF(list);
            return nullptr;
        }
        PyList_SET_ITEM(list, i, event);
    }
    return list;
}

// Takes recipients from a list of descriptors and a list of limits. Returns false with an exception
// set if these are not valid.
bool take_recipients(PyObject *sockets, PyObject *limits, Recipients *to)
{
    const Py_ssize_t count = PyList_GET_SIZE(sockets);

    if (count > MAX_SOCKETS || count != PyList_GET_SIZE(limits)) {
        PyErr_Format(PyExc_ValueError, "more than %d sockets, or not a limit for each",
                     MAX_SOCKETS);
        return false;
    }
    to->count = static_cast<int>(count);
    for (int i = 0; i < to->count; i++) {
        const long fd = PyLong_AsLong(PyList_GET_ITEM(sockets, i));
        const Py_ssize_t limit = PyLong_AsSsize_t(PyList_GET_ITEM(limits, i));

        if (PyErr_Occurred())
            return false;
        if (fd < 0 || fd > INT_MAX) {
            PyErr_Format(PyExc_ValueError, "not a file descriptor: %ld", fd);
            return false;
        }
        to->sockets[i] = static_cast<int>(fd);
        to->max_records[i] = limit;
    }
    return true;
}

PyObject *native_wait(PyObject *, PyObject *args)
{
    struct epoll_event events[MAX_EVENTS];
    Recipients recipients;
    int epoll, event_count, peek;
    double seconds, milliseconds;
    PyObject *producers, *sockets, *limits, *batch, *relayed = nullptr;
    Py_ssize_t read_size, threshold;
    Rules rules;
    struct timespec awake;

    if (!PyArg_ParseTuple(args, "idO!n(y#n)O!O!np:wait", &epoll, &seconds, &PyDict_Type, &producers,
                          &read_size, &rules.prefix, &rules.prefix_size, &rules.limit,
                          &PyList_Type, &sockets, &PyList_Type, &limits, &threshold, &peek))
        return nullptr;
    if (read_size < 1)
        return PyErr_Format(PyExc_ValueError, "read_size is less than 1");
    if (!take_recipients(sockets, limits, &recipients))
        return nullptr;
    // Allocated before the wait, when no record is delayed by it.
    if (!(batch = PyBytes_FromStringAndSize(nullptr, read_size)))
        return nullptr;
    milliseconds = std::ceil(seconds * 1000);

    Py_BEGIN_ALLOW_THREADS
    event_count = epoll_wait(epoll, events, MAX_EVENTS,
                             seconds < 0 ? -1 : static_cast<int>(std::fmin(milliseconds, INT_MAX)));
    Py_END_ALLOW_THREADS
    clock_gettime(CLOCK_MONOTONIC, &awake);

    if (event_count == 1 && events[0].events == EPOLLIN) {
        PyObject *const fd = PyLong_FromLong(events[0].data.fd);
        PyObject *const producer = fd ? PyDict_GetItemWithError(producers, fd) : nullptr;

        Py_XDECREF(fd);
        if (producer) {
            Py_INCREF(producer);
            relayed = relay(events[0].data.fd, producer, &batch, rules, recipients, threshold,
                            peek);
            Py_DECREF(producer);
        }
    } else if (event_count < 0) {
        // After EINTR the handler of a signal may raise an exception. Without one, the wait is over
        // and there are no events.
        if (errno != EINTR)
            PyErr_SetFromErrno(PyExc_OSError);
        else
            PyErr_CheckSignals();
    }
    Py_XDECREF(batch);
    if (PyErr_Occurred())
        return nullptr;
    if (relayed || event_count < 0)
        event_count = 0;
    if (!relayed) {
        relayed = Py_None;
        Py_INCREF(relayed);
    }
    return Py_BuildValue("(dNN)",
                         static_cast<double>(awake.tv_sec) +
                             static_cast<double>(awake.tv_nsec) * 1e-9,
                         list_of(events, event_count), relayed);
}

PyMethodDef methods[] = {
    {"routing_keys_of", native_routing_keys_of, METH_VARARGS, nullptr},
    {"wait", native_wait, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__native(void)
{
    // The buffers are reserved here; the kernel provides only the pages that are written to.
    static simdjson::dom::parser instance(MAX_SIZE);
    PyObject *module = PyModule_Create(&definition);

    parser = &instance;
    if (instance.allocate(MAX_SIZE, MAX_DEPTH)) {
        PyErr_NoMemory();
        Py_CLEAR(module);
    }
    if (!module || PyModule_AddIntMacro(module, MAX_SOCKETS))
        Py_CLEAR(module);
    return module;
}
