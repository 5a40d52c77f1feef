// SPDX-License-Identifier: Apache-2.0
//
// The way of the commonest thing of all, so short that it is worth a compiler: good records that
// are plain, and one producer whose records go to a few sockets before anybody in Python has to be
// asked. Whatever is out of the ordinary is left to Python, which also keeps the books. Nothing is
// kept here between two calls.

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

constexpr int MOST_EVENTS = 1023;  // what select.epoll.poll asks for
constexpr int MOST_SOCKETS = 64;   // with more than that there are better ways
constexpr size_t MOST_SIZE = 128 * 1024;  // bytes of a plain record
constexpr size_t MOST_DEPTH = 64;         // of its objects, lists and values in one another
constexpr Py_ssize_t MOST_KINDS = 8;      // that are looked through for the same one

// What makes a good record.
struct Policy {
    const char *prefix;  // of an event_type that needs another look
    Py_ssize_t prefix_size;
    Py_ssize_t limit;  // bytes, with the newline
};

simdjson::dom::parser *parser;

bool starts_with(std::string_view text, const Policy &rules)
{
    return !text.compare(0, rules.prefix_size, rules.prefix, rules.prefix_size);
}

// What a notification is: its event_type, priority and publisher_id.
using RoutingKey = std::array<std::string_view, 3>;

// The kind of a line, if it is a good record, and a plain one. More than the line may be read, as
// far as `readable`: simdjson reads so many bytes at once that it goes beyond the end.
std::optional<RoutingKey> kind_of(const char *line, size_t size, size_t readable, const Policy &rules)
{
    static char padded[MOST_SIZE + simdjson::SIMDJSON_PADDING];
    simdjson::dom::object record;
    bool has_event_type = false, has_priority = false;
    RoutingKey kind{"", "", ""};
    auto &[event_type, priority, publisher_id] = kind;

    if (*line != '{' || size > MOST_SIZE || static_cast<Py_ssize_t>(size) > rules.limit)
        return {};
    if (readable - size < simdjson::SIMDJSON_PADDING) {
        memcpy(padded, line, size);
        line = padded;
    }
    if (parser->parse(line, size, false).get(record))
        return {};
    // Where a key is there twice the last one counts, but each has to be good.
    for (const auto [key, value] : record) {
        if (key == "event_type") {
            if (value.get(event_type) || starts_with(event_type, rules))
                return {};
            has_event_type = true;
        } else if (key == "priority") {
            if (value.get(priority))
                return {};
            has_priority = true;
        } else if (key == "publisher_id" && value.get(publisher_id)) {
            publisher_id = "";
        }
    }
    if (!has_event_type || !has_priority)
        return {};
    return kind;
}

bool is_same(PyObject *kind, const RoutingKey &other)
{
    for (size_t i = 0; i < other.size(); i++) {
        Py_ssize_t size;
        const char *const value = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(kind, i), &size);

        if (!value || std::string_view(value, size) != other[i])
            return false;
    }
    return true;
}

// A host has few routing_keys of notifications and many of each: one of the last may be the same.
PyObject *tuple_of(const RoutingKey &kind, PyObject *before)
{
    const Py_ssize_t count = PyList_GET_SIZE(before);

    for (Py_ssize_t i = count - 1; i >= 0 && i >= count - MOST_KINDS; i--) {
        PyObject *const one = PyList_GET_ITEM(before, i);

        if (is_same(one, kind)) {
            Py_INCREF(one);
            return one;
        }
        if (PyErr_Occurred())
            return nullptr;
    }
    return Py_BuildValue("(s#s#s#)", kind[0].data(), kind[0].size(), kind[1].data(),
                         kind[1].size(), kind[2].data(), kind[2].size());
}

// The routing_keys of all lines of a run, where all are good and plain; otherwise an empty list, or null
// with an exception. For `readable` see above.
PyObject *routing_keys_of(const char *run, size_t size, size_t readable, const Policy &rules)
{
    const char *const end = run + size;
    const char *const beyond = run + readable;
    PyObject *const routing_keys = PyList_New(0);

    if (!routing_keys || !size || end[-1] != '\n')
        return routing_keys;
    while (run < end) {
        const char *const next = static_cast<const char *>(memchr(run, '\n', end - run)) + 1;
        const auto kind = kind_of(run, next - run, beyond - run, rules);
        PyObject *const tuple = kind ? tuple_of(*kind, routing_keys) : nullptr;

        if (!tuple || PyList_Append(routing_keys, tuple)) {
            Py_XDECREF(tuple);
            // What of Unicode Python does not take is not plain.
            if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_UnicodeError))
                PyErr_Clear();
            if (PyErr_Occurred() || PyList_SetSlice(routing_keys, 0, PY_SSIZE_T_MAX, nullptr)) {
                Py_DECREF(routing_keys);
                return nullptr;
            }
            break;
        }
        Py_DECREF(tuple);
        run = next;
    }
    return routing_keys;
}

PyObject *native_routing_keys_of(PyObject *, PyObject *args)
{
    PyObject *lines;
    Policy rules;

    if (!PyArg_ParseTuple(args, "S(y#n):routing_keys_of", &lines, &rules.prefix, &rules.prefix_size,
                          &rules.limit))
        return nullptr;
    const size_t size = PyBytes_GET_SIZE(lines);
    return routing_keys_of(PyBytes_AS_STRING(lines), size, size, rules);
}

// What became of a send to each socket: bytes that it took, or the error's number below zero.
PyObject *send_all(const char *run, Py_ssize_t size, const int *sockets, int count)
{
    ssize_t taken[MOST_SOCKETS];
    PyObject *results;

    for (int i = 0; i < count; i++) {
        taken[i] = send(sockets[i], run, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (taken[i] < 0)
            taken[i] = -errno;
    }
    if (!(results = PyList_New(count)))
        return nullptr;
    for (int i = 0; i < count; i++) {
        PyObject *const result = PyLong_FromSsize_t(taken[i]);

        if (!result) {
            Py_DECREF(results);
            return nullptr;
        }
        PyList_SET_ITEM(results, i, result);
    }
    return results;
}

// recv(2) without the file descriptors that a peer may have passed; see ancillary.py. Where the
// kernel does not refuse them (`peek`), a first look takes nothing: with descriptors it is -1.
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

// Reads one producer into `run` and hands on what is good: (producer, bytes, routing_keys, what became of
// the sends). Null with an exception, or without one where nothing was read.
PyObject *relay(int fd, PyObject *producer, PyObject **run, const Policy &rules, const int *sockets,
                int count, Py_ssize_t most, bool peek)
{
    char *const data = PyBytes_AS_STRING(*run);
    const Py_ssize_t room = PyBytes_GET_SIZE(*run);
    const ssize_t size = receive(fd, data, room, peek);
    PyObject *routing_keys, *results;

    if (size <= 0)
        return nullptr;
    if (!(routing_keys = routing_keys_of(data, size, room, rules)))
        return nullptr;
    results = send_all(data, size, sockets, PyList_GET_SIZE(routing_keys) && size < most ? count : 0);
    if (!results || _PyBytes_Resize(run, size)) {
        Py_XDECREF(results);
        Py_DECREF(routing_keys);
        return nullptr;
    }
    return Py_BuildValue("(OONN)", producer, *run, routing_keys, results);
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

PyObject *native_wait(PyObject *, PyObject *args)
{
    struct epoll_event events[MOST_EVENTS];
    int sockets[MOST_SOCKETS];
    int epoll, count, happened, peek;
    double seconds, milliseconds;
    PyObject *producers, *given, *run, *relayed = nullptr;
    Py_ssize_t read_size, most;
    Policy rules;
    struct timespec awake;

    if (!PyArg_ParseTuple(args, "idO!n(y#n)O!np:wait", &epoll, &seconds, &PyDict_Type, &producers,
                          &read_size, &rules.prefix, &rules.prefix_size, &rules.limit,
                          &PyList_Type, &given, &most, &peek))
        return nullptr;
    if (PyList_GET_SIZE(given) > MOST_SOCKETS || read_size < 1)
        return PyErr_Format(PyExc_ValueError, "more than %d sockets, or no byte to be read",
                            MOST_SOCKETS);
    count = static_cast<int>(PyList_GET_SIZE(given));
    for (int i = 0; i < count; i++) {
        const long fd = PyLong_AsLong(PyList_GET_ITEM(given, i));

        if (fd < 0 || fd > INT_MAX)
            return PyErr_Occurred() ? nullptr
                                    : PyErr_Format(PyExc_ValueError, "no socket: %ld", fd);
        sockets[i] = static_cast<int>(fd);
    }
    // While nobody waits for it.
    if (!(run = PyBytes_FromStringAndSize(nullptr, read_size)))
        return nullptr;
    milliseconds = std::ceil(seconds * 1000);

    Py_BEGIN_ALLOW_THREADS
    happened = epoll_wait(epoll, events, MOST_EVENTS,
                          seconds < 0 ? -1 : static_cast<int>(std::fmin(milliseconds, INT_MAX)));
    Py_END_ALLOW_THREADS
    clock_gettime(CLOCK_MONOTONIC, &awake);

    if (happened == 1 && events[0].events == EPOLLIN) {
        PyObject *const fd = PyLong_FromLong(events[0].data.fd);
        PyObject *const producer = fd ? PyDict_GetItemWithError(producers, fd) : nullptr;

        Py_XDECREF(fd);
        if (producer) {
            Py_INCREF(producer);
            relayed = relay(events[0].data.fd, producer, &run, rules, sockets, count, most,
                            peek);
            Py_DECREF(producer);
        }
    } else if (happened < 0) {
        // A signal: its handler may raise. Otherwise that was all.
        if (errno != EINTR)
            PyErr_SetFromErrno(PyExc_OSError);
        else
            PyErr_CheckSignals();
    }
    Py_XDECREF(run);
    if (PyErr_Occurred())
        return nullptr;
    if (relayed || happened < 0)
        happened = 0;
    if (!relayed) {
        relayed = Py_None;
        Py_INCREF(relayed);
    }
    return Py_BuildValue("(dNN)",
                         static_cast<double>(awake.tv_sec) +
                             static_cast<double>(awake.tv_nsec) * 1e-9,
                         list_of(events, happened), relayed);
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
    // Of memory that is set aside only what is written to is taken.
    static simdjson::dom::parser one(MOST_SIZE);
    PyObject *module = PyModule_Create(&definition);

    parser = &one;
    if (one.allocate(MOST_SIZE, MOST_DEPTH)) {
        PyErr_NoMemory();
        Py_CLEAR(module);
    }
    if (!module || PyModule_AddIntMacro(module, MOST_SOCKETS))
        Py_CLEAR(module);
    return module;
}
