// SPDX-License-Identifier: Apache-2.0
//
// One function, which waits as select.epoll.poll does. Where what it has waited for is the
// commonest thing of all, it does it before anybody in Python has to be asked: one producer has
// sent whole records, and they go to a few sockets. Python is told what was done, and keeps the
// books. Whatever is out of the ordinary is left to it. Nothing is kept here between two calls.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

enum {
    MOST_EVENTS = 1023,  // what select.epoll.poll asks for
    MOST_SOCKETS = 64    // with more than that there are better ways
};

// What makes a good record.
struct rules {
    PyObject *decode;   // returns its header, or raises
    PyObject *prefix;   // of an event_type that needs another look
    Py_ssize_t limit;   // bytes, with the newline
};

static PyObject *event_type;  // the name

static int is_ascii(const char *data, Py_ssize_t size)
{
    uint64_t all = 0, some;

    for (; size >= (Py_ssize_t)sizeof some; data += sizeof some, size -= sizeof some) {
        memcpy(&some, data, sizeof some);
        all |= some;
    }
    for (; size > 0; data++, size--)
        all |= (unsigned char)*data;
    return !(all & UINT64_C(0x8080808080808080));
}

// The header of a line; None if the line is not good or needs another look, NULL with an exception.
static PyObject *header_of(const char *line, Py_ssize_t size, const struct rules *rules)
{
    PyObject *bytes, *header, *type;
    Py_ssize_t special;

    if (size > rules->limit)
        Py_RETURN_NONE;
    if (!(bytes = PyBytes_FromStringAndSize(line, size)))
        return NULL;
    header = PyObject_CallOneArg(rules->decode, bytes);
    Py_DECREF(bytes);
    if (!header) {
        // What it was is found out again by whoever has a word for it.
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    type = PyObject_GetAttr(header, event_type);
    special = type ? PyUnicode_Tailmatch(type, rules->prefix, 0, PY_SSIZE_T_MAX, -1) : -1;
    Py_XDECREF(type);
    if (!special)
        return header;
    Py_DECREF(header);
    if (special < 0)
        return NULL;
    Py_RETURN_NONE;
}

// A list of the headers of all lines, where all are good; otherwise as header_of.
static PyObject *headers_of(const char *run, Py_ssize_t size, const struct rules *rules)
{
    const char *const end = run + size;
    PyObject *headers, *header = Py_None;

    if (end[-1] != '\n' || !is_ascii(run, size))
        Py_RETURN_NONE;
    if (!(headers = PyList_New(0)))
        return NULL;
    while (run < end) {
        const char *const next = (const char *)memchr(run, '\n', end - run) + 1;
        int failed;

        header = header_of(run, next - run, rules);
        if (!header || header == Py_None)
            break;
        failed = PyList_Append(headers, header);
        Py_DECREF(header);
        if (failed) {
            header = NULL;
            break;
        }
        run = next;
    }
    if (run == end)
        return headers;
    Py_DECREF(headers);
    return header;
}

// What became of a send to each socket: bytes that it took, or the error's number below zero.
static PyObject *send_all(const char *run, Py_ssize_t size, const int *sockets, int count)
{
    ssize_t taken[MOST_SOCKETS];
    PyObject *results;

    for (int i = 0; i < count; i++) {
        taken[i] = send(sockets[i], run, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (taken[i] < 0)
            taken[i] = -errno;
    }
    if (!(results = PyList_New(count)))
        return NULL;
    for (int i = 0; i < count; i++) {
        PyObject *const result = PyLong_FromSsize_t(taken[i]);

        if (!result) {
            Py_DECREF(results);
            return NULL;
        }
        PyList_SET_ITEM(results, i, result);
    }
    return results;
}

// Reads one producer into `run` and hands on what is good: (producer, bytes, headers or None, what
// became of the sends). NULL with an exception, or without one where the read has brought nothing.
static PyObject *relay(int fd, PyObject *producer, PyObject **run, const struct rules *rules,
                       const int *sockets, int count, Py_ssize_t most)
{
    char *const data = PyBytes_AS_STRING(*run);
    const ssize_t size = recv(fd, data, PyBytes_GET_SIZE(*run), MSG_DONTWAIT);
    PyObject *headers, *results;

    if (size <= 0)
        return NULL;
    if (!(headers = headers_of(data, size, rules)))
        return NULL;
    results = send_all(data, size, sockets, headers != Py_None && size < most ? count : 0);
    if (!results || _PyBytes_Resize(run, size)) {
        Py_XDECREF(results);
        Py_DECREF(headers);
        return NULL;
    }
    return Py_BuildValue("(OONN)", producer, *run, headers, results);
}

static PyObject *list_of(const struct epoll_event *events, int count)
{
    PyObject *const list = PyList_New(count);

    for (int i = 0; list && i < count; i++) {
        PyObject *const event = Py_BuildValue("(iI)", events[i].data.fd, events[i].events);

        if (!event) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, event);
    }
    return list;
}

static PyObject *shortcut_wait(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct epoll_event events[MOST_EVENTS];
    int sockets[MOST_SOCKETS];
    int epoll, count, happened;
    double seconds, milliseconds;
    PyObject *producers, *given, *run, *relayed = NULL;
    Py_ssize_t read_size, most;
    struct rules rules;
    struct timespec awake;

    if (!PyArg_ParseTuple(args, "idO!n(OUn)O!n:wait", &epoll, &seconds, &PyDict_Type, &producers,
                          &read_size, &rules.decode, &rules.prefix, &rules.limit, &PyList_Type,
                          &given, &most))
        return NULL;
    if (PyList_GET_SIZE(given) > MOST_SOCKETS || read_size < 1)
        return PyErr_Format(PyExc_ValueError, "more than %d sockets, or no byte to be read",
                            MOST_SOCKETS);
    count = (int)PyList_GET_SIZE(given);
    for (int i = 0; i < count; i++) {
        const long fd = PyLong_AsLong(PyList_GET_ITEM(given, i));

        if (fd < 0 || fd > INT_MAX)
            return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "no socket: %ld", fd);
        sockets[i] = (int)fd;
    }
    // While nobody waits for it.
    if (!(run = PyBytes_FromStringAndSize(NULL, read_size)))
        return NULL;
    milliseconds = ceil(seconds * 1000);

    Py_BEGIN_ALLOW_THREADS
    happened = epoll_wait(epoll, events, MOST_EVENTS,
                          seconds < 0 ? -1 : (int)fmin(milliseconds, INT_MAX));
    Py_END_ALLOW_THREADS
    clock_gettime(CLOCK_MONOTONIC, &awake);

    if (happened == 1 && events[0].events == EPOLLIN) {
        PyObject *const fd = PyLong_FromLong(events[0].data.fd);
        PyObject *const producer = fd ? PyDict_GetItemWithError(producers, fd) : NULL;

        Py_XDECREF(fd);
        if (producer) {
            Py_INCREF(producer);
            relayed = relay(events[0].data.fd, producer, &run, &rules, sockets, count, most);
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
        return NULL;
    if (relayed || happened < 0)
        happened = 0;
    if (!relayed) {
        relayed = Py_None;
        Py_INCREF(relayed);
    }
    return Py_BuildValue("(dNN)", (double)awake.tv_sec + (double)awake.tv_nsec * 1e-9,
                         list_of(events, happened), relayed);
}

static PyMethodDef methods[] = {
    {"wait", shortcut_wait, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_shortcut",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__shortcut(void)
{
    PyObject *module = PyModule_Create(&definition);

    event_type = PyUnicode_InternFromString("event_type");
    if (!event_type || !module || PyModule_AddIntMacro(module, MOST_SOCKETS))
        Py_CLEAR(module);
    return module;
}
